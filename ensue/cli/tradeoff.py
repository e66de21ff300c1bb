"""`ensue tradeoff`: size, speed and quality of runs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tradeoff(
    runs: Annotated[list[Path], typer.Argument(help="Runs: for example a teacher and students.")],
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder, where it is not in its old place.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Of the evaluation: map, ndcg@10, ...")] = "map",
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    repeats: Annotated[int, typer.Option(help="Answers timed for each run and batch size.")] = 30,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for tradeoff.json and a page, tradeoff.html."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Show what each run costs and what it gives: parameters, file, time of an answer, quality."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.evaluation.evaluator import Split
    from ensue.runs.tradeoff import BATCHES, tradeoff

    chosen: Split = split  # type: ignore[assignment]  # evaluate checks it
    found = tradeoff(
        runs, data, metric=metric, split=chosen, repeats=repeats, out=output, progress=True
    )
    if as_json:
        print_json(found.to_dict())
        return
    rows = [
        [
            cost.name,
            cost.num_parameters,
            cost.file_bytes / 1e6,
            *(cost.ms[str(size)] for size in BATCHES),
            cost.value,
            *(cost.interval or ("-", "-")),
        ]
        for cost in found.costs
    ]
    columns = ["run", "parameters", "MB", *(f"ms, {size} at a time" for size in BATCHES)]
    print_table([*columns, metric, "from", "to"], rows, title=f"{metric} on {split}")
    if output is not None:
        print_text(f"The page is {output / 'tradeoff.html'}.")
