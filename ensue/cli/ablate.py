"""`ensue ablate`: what each part of a model is worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def ablate(
    model: Annotated[
        str, typer.Argument(help="A model of ensue train, or a run whose settings are varied.")
    ],
    data: Annotated[Path, typer.Argument(help="Dataset folder made by ensue prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the ablation.")],
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="What to leave out: a setting, as dynamic; a value of a list, as graphs.tags, or "
            "each in turn, as 'graphs.*'; several at once, as graphs+interactions; repeat."
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE,VALUE,..., a setting to change, as degree=0,1,2; repeat."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings of each variant; default 3.", show_default=False)
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="Repeat, the first is drawn; default ndcg@10, recall@10, pap@10."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    preset: Annotated[str | None, typer.Option(help="Named settings to start from.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, a setting of the full model; repeat."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the ablation.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the ablation in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Train variants of a model with one thing changed each, and show what each change costs."""
    from ensue.cli.output import print_json, print_text
    from ensue.cli.trained import resumable
    from ensue.config import parse_settings
    from ensue.runs.ablate import DEFAULT_METRICS, ablate
    from ensue.runs.ablation_variants import parse_variations

    with resumable("The trainings so far are", output):
        found = ablate(
            model,
            data,
            out=output,
            without=without or (),
            vary=parse_variations(vary or ()),
            seeds=seeds,
            metrics=metric or DEFAULT_METRICS,
            split=split,  # type: ignore[arg-type]  # evaluate checks it
            preset=preset,
            settings=parse_settings(assignments or []),
            resume=resume,
            overwrite=overwrite,
        )
    if as_json:
        print_json({"path": str(found.path), **found.info})
        return
    for name in found.info["metrics"]:
        _print_metric(found.info, name)
    _print_users(found.info)
    print_text(f"The table is {output / 'ablation.json'}, the page {output / 'ablation.html'}.")


def _print_metric(info: Mapping[str, Any], metric: str) -> None:
    """Print what each variant has of a metric, and what it has more or less than the full one."""
    from ensue.cli.output import print_table

    rows: list[list[object]] = []
    for one in info["variants"]:
        row = [one["name"], one["means"][metric], one["deviations"][metric]]
        difference = one["differences"].get(metric)
        if difference is None:
            row += [None] * 5
        else:
            relative = difference["relative"]
            row += [
                difference["mean"],
                None if relative is None else f"{relative:+.1%}",
                *difference["interval"],
                difference["p_corrected"],
            ]
        rows.append(row)
    correction = info["protocol"]["correction"]
    heads = ["deviation", "difference", "relative", "from", "to", f"p ({correction})"]
    title = f"{info['model']} on {info['split']}, {len(info['seeds'])} seeds"
    print_table(["variant", metric, *heads], rows, title=title)


def _print_users(info: Mapping[str, Any]) -> None:
    """Print pap@k of users with few and with many targets, where the cut-offs divide them."""
    from ensue.cli.output import print_table

    slices = info["variants"][0]["user_slices"]
    if slices:
        rows = [
            [one["name"]]
            + [p["metrics"][f"pap@{p['k']}"] for p in (one["user_slices"][n] for n in slices)]
            for one in info["variants"]
        ]
        print_table(["pap@k of users with", *slices], rows)
