"""`ensue evaluate`: rank the held-out items of every user among the whole catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder made by ensue train.")],
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder, where it is not in its old place.")
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    k: Annotated[
        list[int] | None, typer.Option("-k", help="A cut-off; repeat. Default 1 5 10 20.")
    ] = None,
    exclude_seen: Annotated[
        bool,
        typer.Option(
            "--exclude-seen/--include-seen", help="Rank only items not in the user's history."
        ),
    ] = True,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples; 0 for no intervals.")] = 1000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Measure a run, with intervals and slices; the result is stored in the run."""
    from ensue.cli.output import print_json, print_table
    from ensue.progress import note
    from ensue.runs.run import load

    evaluation = load(run).evaluate(
        data,
        split=split,  # type: ignore[arg-type]  # evaluate checks it
        ks=tuple(k) if k else (1, 5, 10, 20),
        exclude_seen=exclude_seen,
        num_resamples=resamples,
        progress=True,
    )
    if as_json:
        print_json(evaluation.to_dict())
        return
    rows = []
    for name, value in evaluation.metrics.items():
        low, high = evaluation.intervals.get(name, (None, None))
        rows.append([name, value, low, high])
    protocol = evaluation.protocol
    title = (
        f"{run}, {split}: {protocol['num_users']:,} users, {protocol['num_targets']:,} targets, "
        f"{protocol['num_candidates']:,} candidates"
    )
    print_table(["metric", "mean", "from", "to"], rows, title=title)
    cut = f"recall@{protocol['ks'][-1]}"
    slices = [
        [name, part["items"], part["targets"], part["metrics"].get(cut)]
        for name, part in evaluation.slices.items()
    ]
    print_table(["slice", "items", "targets", cut], slices)
    note(f"Intervals: {protocol['interval']}.")
    for text in protocol["notes"]:
        note(f"Note: {text}")
