"""`ensue stability`: how large a learning rate a network can take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ensue.errors import UsageError


def stability(
    data: Annotated[
        Path | None,
        typer.Argument(help="Ranking dataset (ensue prepare --target); default: made data."),
    ] = None,
    *,
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
    model: Annotated[
        str | None, typer.Option(help="Of DATA: a ranking model; default shared_bottom.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Of DATA: settings of the model.")] = None,
    model_settings: Annotated[
        list[str] | None,
        typer.Option("--model-set", help="Of DATA: NAME=VALUE of the model or the rows; repeat."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of each training on made data; default 300.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of each step.")] = 128,
    width: Annotated[
        int | None, typer.Option(help="Of the 4 shared layers, on made data; default 128.")
    ] = None,
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
    from ensue.config import make_config, parse_settings
    from ensue.runs.stability import RULES, doubling, stability
    from ensue.runs.stability_dataset import dataset_bench
    from ensue.runs.stability_stream import StreamBenchConfig, stream_bench

    of_data = {"--model": model, "--preset": preset, "--model-set": model_settings}
    if data is None:
        _refuse(of_data, "a dataset; give its folder, or leave it out")
        sizes = {"steps": steps, "batch_size": batch_size, "width": width}
        given = {name: value for name, value in sizes.items() if value is not None}
        bench = stream_bench(make_config(StreamBenchConfig, given))
    else:
        _refuse({"--steps": steps, "--width": width}, "made data; leave it out")
        own = {"batch_size": batch_size, **parse_settings(model_settings or [])}
        bench = dataset_bench(data, model or "shared_bottom", preset=preset, settings=own)
    with resumable("The trainings so far are", output):
        found = stability(
            bench,
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


def _refuse(options: Mapping[str, object], of: str) -> None:
    """Raise a UsageError for the first option that was given."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} is for {of}.")
