"""`ensue compare`: do runs differ by more than chance?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_METRICS = ("map", "ndcg@10", "recall@10")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more evaluated runs.")],
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help=f"Repeat; default {', '.join(DEFAULT_METRICS)}."),
    ] = None,
    correction: Annotated[
        str, typer.Option(help="For many tests: holm, bonferroni or bh.")
    ] = "holm",
    permutations: Annotated[int, typer.Option(help="Random permutations of each test.")] = 10_000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Compare runs user by user: paired permutation tests, corrected for their number."""
    from ensue.cli.output import print_json, print_table
    from ensue.runs.compare import compare_runs

    comparison = compare_runs(
        runs,
        split=split,
        metrics=metric or DEFAULT_METRICS,
        correction=correction,
        num_permutations=permutations,
    )
    if as_json:
        print_json(comparison.to_dict())
        return
    rows = [
        [t["a"], t["b"], t["metric"], t["difference"], *t["interval"], t["p"], t["p_corrected"]]
        for t in comparison.to_dict()["tests"]
    ]
    columns = ["a", "b", "metric", "a - b", "from", "to", "p", f"p ({correction})"]
    print_table(columns, rows, title=f"paired permutation tests on {split}")
