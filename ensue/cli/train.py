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
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.config import parse_settings
    from ensue.runs.train import Fit, train

    settings = parse_settings(assignments or [])
    chosen: Fit = fit  # type: ignore[assignment]  # train checks it
    try:
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
    except KeyboardInterrupt:
        from ensue.progress import note

        note(f"A checkpoint is in {output}; the same command with --resume continues from it.")
        raise
    if as_json:
        print_json({"path": str(run.path), **run.info})
        return
    validation = run.info["metrics"].get("validation", {})
    names = [name for name in ("map", "ndcg@10", "recall@10", "hr@10", "mrr") if name in validation]
    if names:
        epoch = run.info.get("best_epoch")
        title = f"{model} on the validation part" + (f", best epoch {epoch}" if epoch else "")
        print_table(names, [[validation[name] for name in names]], title=title)
    print_text(f"The run is in {run.path}. Next:\n  ensue evaluate {run.path}")
