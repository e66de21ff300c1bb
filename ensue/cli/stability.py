"""`ensue stability`: how large a learning rate a network can take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def stability(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sweep.")],
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            help="RULE[:THRESHOLD][@DIRECTION], for example none, gc:0.1, clippy@adam; repeat. "
            "Default: none, gc:0.1, agc:0.01, lamb:0.1 and clippy.",
        ),
    ] = None,
    smallest: Annotated[float, typer.Option("--from", help="The smallest learning rate.")] = 0.005,
    largest: Annotated[float, typer.Option("--to", help="The largest; each is twice the last.")] = (
        2.56
    ),
    seeds: Annotated[int, typer.Option(help="Trainings at each rate.")] = 3,
    steps: Annotated[int, typer.Option(help="Of each training.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Rows of each step.")] = 128,
    width: Annotated[int, typer.Option(help="Of the 4 layers that the tasks share.")] = 128,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, a setting of the trainings; repeat."),
    ] = None,
    until_diverged: Annotated[
        bool,
        typer.Option("--until-diverged", help="Leave out rates above one at which all diverged."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the sweep, or add rules, rates and seeds.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the sweep that is in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Train at larger and larger rates, and show which rules diverge and what is learned."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.cli.trained import resumable
    from ensue.config import parse_settings
    from ensue.runs.stability import RULES, doubling, stability
    from ensue.runs.stability_stream import StreamBenchConfig, stream_bench

    sizes = StreamBenchConfig(steps=steps, batch_size=batch_size, width=width)
    with resumable("The trainings so far are", output):
        found = stability(
            stream_bench(sizes),
            out=output,
            rules=rules or RULES,
            rates=doubling(smallest, largest),
            seeds=range(seeds),
            settings=parse_settings(assignments or []),
            until_diverged=until_diverged,
            resume=resume,
            overwrite=overwrite,
        )
    if as_json:
        print_json({"path": str(found.path), **found.to_dict()})
        return
    rows = []
    for rule in found.rules:
        best = rule.best
        shown = (best.auc, best.rate) if best else (None, None)
        cells = (rule.largest_rate, rule.largest_calm_rate, *shown)
        rows.append([rule.rule, *("-" if cell is None else f"{cell:.4g}" for cell in cells)])
    columns = ["rule", "largest rate", "without micro-divergence", "best AUC", "at rate"]
    print_table(columns, rows, title=f"{len(found.outcomes)} trainings")
    print_text(f"All of it is in {found.path / 'stability.html'} and stability.json beside it.")
