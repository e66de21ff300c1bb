"""`ensue train`: train a model on a dataset and store the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ensue.errors import UsageError
from ensue.progress import is_first_process, num_processes


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="caser, sasrec, gru4rec, m3, two_tower, deep_retrieval, bpr, neumf, cml, "
            "mult_vae, lightgcn, medres, popularity, item_knn, markov, ease or wrmf; or of a "
            "ranking dataset: lr, fm, wide_deep, deepfm, dcn, dcn_v2, dlrm, shared_bottom, mmoe or "
            "ple."
        ),
    ],
    data: Annotated[Path, typer.Argument(help="Dataset folder made by ensue prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    preset: Annotated[
        str | None, typer.Option(help="Named settings, for example paper (caser).")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, a setting of the model or the training; repeat."),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="adam, lazy_adam, adagrad or clippy; the same as --set optimizer=..."),
    ] = None,
    distributed: Annotated[
        str | None,
        typer.Option(
            help="How a model is divided among the processes that torchrun starts: of a ranking "
            "model auto (the cheapest by the plan), des, table_wise, row_wise or replicated; of "
            "others auto, row_wise or replicated."
        ),
    ] = None,
    fit: Annotated[
        str, typer.Option(help="train, or train+validation for the final model.")
    ] = "train",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Train a model; Ctrl-C keeps a checkpoint, --resume continues from it."""
    from ensue.cli.trained import print_ranking_run, print_run, resumable
    from ensue.config import parse_settings
    from ensue.models.ranking.table import RANKERS
    from ensue.runs.train import train
    from ensue.runs.train_ranker import train_ranker

    settings = parse_settings(assignments or [])
    if optimizer is not None:
        if settings.get("optimizer", optimizer) != optimizer:
            raise UsageError(
                f"--optimizer {optimizer} and --set optimizer={settings['optimizer']} differ; "
                "pass one of them."
            )
        settings["optimizer"] = optimizer
    options: dict[str, Any] = {
        "out": output,
        "preset": preset,
        "fit": fit,
        "resume": resume,
        "overwrite": overwrite,
        **settings,
    }
    if distributed is None and num_processes() > 1:
        raise UsageError(
            "several processes that torchrun starts train one model with --distributed; got "
            f"{num_processes()} without it."
        )
    with resumable("A checkpoint is", output):
        if model in RANKERS:
            ranker = train_ranker(model, data, distributed=distributed, **options)
            if is_first_process():
                print_ranking_run(ranker, as_json=as_json)
            return
        run = train(model, data, distributed=distributed, **options)
    if is_first_process():
        print_run(run, title=model, next_command=f"ensue evaluate {run.path}", as_json=as_json)
