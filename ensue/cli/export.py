"""`ensue export`: a run as a file that other programs compute with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Run folder made by ensue train.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx or torch-export: a graph from histories (or rows) to scores; "
            "npz: all weights as arrays.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new folder; RUN/exports/FORMAT by default."),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", "--k", help="Let the graph give the k best unseen items, not scores."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the export that is there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Write a run in another format, and check that it gives the run's own scores."""
    from ensue.cli.output import print_json, print_text
    from ensue.errors import UsageError
    from ensue.runs.ranker import KIND, RankingRun
    from ensue.runs.run import Run
    from ensue.runs.stored import kind_of, read_info

    if kind_of(read_info(run)) == KIND:
        if k is not None:
            raise UsageError(f"--k is for runs that rank items; {run} predicts rows.")
        found = RankingRun(run).export(form, out=output, overwrite=overwrite)
    else:
        found = Run(run).export(form, out=output, k=k, overwrite=overwrite)
    if as_json:
        print_json({"path": str(found.path), **found.info})
        return
    size = sum(file["bytes"] for file in found.info["files"].values())
    told = f"{found.info['model']} as {form}, {size / 1e6:.1f} MB, in {found.path}."
    if "parity" in found.info:
        difference = found.info["parity"]["max_abs_difference"]
        told += f" The largest difference to the run's own scores is {difference:.1e}."
    print_text(told)
