"""`ensue train`: train a model on a dataset and store the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="caser, sasrec, gru4rec, m3, two_tower, deep_retrieval, bpr, popularity, "
            "item_knn, markov or ease."
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
    from ensue.cli.trained import print_run, resumable
    from ensue.config import parse_settings
    from ensue.runs.train import Fit, train

    settings = parse_settings(assignments or [])
    chosen: Fit = fit  # type: ignore[assignment]  # train checks it
    with resumable("A checkpoint is", output):
        run = train(
            model,
            data,
            out=output,
            preset=preset,
            fit=chosen,
            resume=resume,
            overwrite=overwrite,
            **settings,
        )
    print_run(run, title=model, next_command=f"ensue evaluate {run.path}", as_json=as_json)
