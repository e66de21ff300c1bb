"""An ablation as one HTML file; see `ensue.runs.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensue.runs.page import (
    Mean,
    Tile,
    build_page,
    details,
    header,
    notes,
    plots,
    section,
    settings_table,
    table,
)
from ensue.runs.plots import draw_intervals

TITLE = "What each part is worth"


def build_ablation_html(found: Mapping[str, Any]) -> str:
    """Return the page as HTML text.

    Args:
        found: what ablation.json holds.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    title = f"{TITLE}: {found['model']} on {found['dataset']['name']}"
    return build_page(
        title,
        [
            _header(title, found),
            _differences(found),
            _users(found),
            _changes(found),
            section("Settings", details("settings", settings_table(found["settings"]))),
        ],
    )


def _header(title: str, found: Mapping[str, Any]) -> str:
    metric = found["metrics"][0]
    full, *others = found["variants"]
    worst = min(others, key=lambda one: one["differences"][metric]["mean"])
    best = max(others, key=lambda one: one["differences"][metric]["mean"])
    tiles = [Tile(f"{full['means'][metric]:.4f}", f"{metric} of the full model")]
    for one, what in ((worst, "lowest"), (best, "highest")):
        difference = one["differences"][metric]
        p = f"p {difference['p_corrected']:.4f}"
        tiles.append(Tile(f"{difference['mean']:+.4f}", f"{what}: {one['name']}", p))
    facts = [
        f"{len(found['variants'])} variants",
        f"{len(found['seeds'])} seeds",
        f"{found['protocol']['num_users']:,} users of the {found['split']} part",
    ]
    return header(title, facts, tiles)


def _differences(found: Mapping[str, Any]) -> str:
    """Return the differences to the full model: a plot of the first metric, a table of each."""
    metric = found["metrics"][0]
    others = found["variants"][1:]
    own = [one["differences"][metric] for one in others]
    drawing = draw_intervals(
        f"{metric}, difference to full",
        [one["name"] for one in others],
        [difference["mean"] for difference in own],
        [difference["interval"] for difference in own],
        from_zero=False,
    )
    tables = [
        details(metric, _table(found, metric), is_open=metric == found["metrics"][0])
        for metric in found["metrics"]
    ]
    protocol = found["protocol"]
    explanation = notes(
        [
            "Each variant is the full model with one change, trained once for each seed. Left of "
            "zero the change does harm: what was changed is worth that much.",
            f"Tests are over users: {protocol['test']}, on the values of each user averaged over "
            f"seeds; p is corrected ({protocol['correction']}) for {protocol['num_tests']} tests. "
            "The deviation is over seeds: a difference well below it may be the training's.",
            *found["notes"],
        ]
    )
    return section("Differences", plots([drawing]) + "".join(tables) + explanation)


def _table(found: Mapping[str, Any], metric: str) -> str:
    rows = []
    for one in found["variants"]:
        difference = one["differences"].get(metric)
        row: list[object] = [
            one["name"],
            Mean(one["means"][metric]),
            Mean(one["deviations"][metric]),
        ]
        if difference is None:
            row += [None] * 4
        else:
            interval = difference["interval"]
            relative = difference["relative"]
            row += [
                Mean(difference["mean"], (interval[0], interval[1])),
                "-" if relative is None else f"{relative:+.1%}",
                f"{difference['p_corrected']:.4f}",
                f"{difference['lower_seeds']} of {len(found['seeds'])}",
            ]
        rows.append(row)
    heads = [metric, "deviation", "difference", "relative", "p", "seeds below the full model"]
    return table(["", *heads], rows)


def _users(found: Mapping[str, Any]) -> str:
    """Return pap@k of users with few and with many targets; "" where they are all alike."""
    full = found["variants"][0]["user_slices"]
    if not full:
        return ""
    names = list(full)
    rows = [
        [one["name"], *(Mean(_pap(one["user_slices"][name])) for name in names)]
        for one in found["variants"]
    ]
    drawings = [
        _draw_users(found["variants"], f"targets<={k}", f"targets>{k}")
        for k in dict.fromkeys(part["k"] for part in full.values())
    ]
    counts = ["users", *(full[name]["users"] for name in names)]
    heads = [f"{name}, pap@{full[name]['k']}" for name in names]
    explanation = (
        "<p>pap@k of users with at most k targets, for whom it counts all of them, and of those "
        "with more, for whom it counts the first k.</p>"
    )
    body = plots(drawings) + table(["", *heads], [counts, *rows])
    return section("Users with few and many targets", explanation + body)


def _draw_users(variants: Sequence[Mapping[str, Any]], few: str, many: str) -> str:
    full = variants[0]["user_slices"]
    labels, values = [], []
    for one in variants[1:]:
        for name in (few, many):
            labels.append(f"{one['name']}, {name}")
            values.append(_pap(one["user_slices"][name]) - _pap(full[name]))
    title = f"pap@{full[few]['k']}, difference to full"
    return draw_intervals(title, labels, values, [(v, v) for v in values], from_zero=False)


def _pap(part: Mapping[str, Any]) -> float:
    value: float = part["metrics"][f"pap@{part['k']}"]
    return value


def _changes(found: Mapping[str, Any]) -> str:
    rows = [
        [
            one["name"],
            ", ".join(f"{name} = {value}" for name, value in one["changes"].items()) or "-",
            one["num_parameters"],
            f"{one['seconds']:.1f}",
        ]
        for one in found["variants"]
    ]
    return section("Variants", table(["", "change", "parameters", "seconds of training"], rows))
