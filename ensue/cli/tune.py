"""`ensue tune`: search the settings of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    model: Annotated[str, typer.Argument(help="A model of ensue train.")],
    data: Annotated[Path, typer.Argument(help="Dataset folder made by ensue prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the search.")],
    trials: Annotated[
        int | None,
        typer.Option(help="Trials to finish in total; default 20, or no limit with --minutes."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no trial after so many minutes.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings to start from.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, a setting that is not searched; repeat."),
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", help="NAME=LOW..HIGH or NAME=A,B,C, what is searched; repeat."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is tried; trainings have --set seed=N.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the search.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the search that is in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Search settings on the validation part; Ctrl-C keeps the trials, --resume continues."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.cli.trained import resumable
    from ensue.config import parse_settings
    from ensue.runs.search_space import parse_ranges
    from ensue.runs.tune import tune

    with resumable("The trials so far are", output):
        found = tune(
            model,
            data,
            out=output,
            trials=trials,
            minutes=minutes,
            preset=preset,
            settings=parse_settings(assignments or []),
            ranges=parse_ranges(ranges or []),
            seed=seed,
            resume=resume,
            overwrite=overwrite,
        )
    if as_json:
        print_json({"path": str(found.path), **found.info})
        return
    best, metric = found.info["best"], found.info["metric"]
    names = list(found.info["ranges"])
    print_table(
        [metric, *names],
        [[found.value, *(_short(best["settings"][name]) for name in names)]],
        title=f"best: trial {best['trial']} of {len(found.trials)}",
    )
    print_text(
        f"Its run is in {found.path / 'best'}, all trials in {found.path / 'trials.jsonl'}. Next:\n"
        f"  ensue evaluate {found.path / 'best'}\nTo train with these settings again:\n"
        f"  {found.info['command']}"
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
