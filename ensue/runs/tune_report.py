"""A search as one HTML file: the best settings, how the search went, and what each setting did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from typing import Any

from ensue.runs.page import Mean, Tile, build_page, header, plots, section, settings_table, table
from ensue.runs.plots import draw_points

Trial = Mapping[str, Any]


def build_tuning_html(info: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """Return the page as HTML text.

    Args:
        info: tune.json of a search with a complete trial.
        trials: the lines of trials.jsonl.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    title = f"{info['model']} on {info['dataset']['name']}: a search"
    return build_page(
        title,
        [
            _header(title, info),
            _best_settings(info),
            _course(info, trials),
            _settings(info, trials),
            _trials(info, trials),
        ],
    )


def _header(title: str, info: Mapping[str, Any]) -> str:
    counts = [f"{number:,} {state}" for state, number in info["trials"].items() if number]
    best = info["best"]
    tiles = [
        Tile(f"{best['value']:.4f}", f"{info['metric']}, validation", f"trial {best['trial']}"),
        Tile(f"{sum(info['trials'].values()):,}", "trials", ", ".join(counts)),
        Tile(f"{info['seconds']:,.0f} s", "in trials"),
    ]
    facts = f"{len(info['ranges'])} settings searched, on the validation part alone"
    return header(title, [facts], tiles)


def _best_settings(info: Mapping[str, Any]) -> str:
    body = (
        f"{settings_table(info['best']['settings'])}"
        f"<p>Train with them again:</p><p><code>{escape(info['command'])}</code></p>"
        "<p>The best of many values measured on the same part is better than what will come: "
        "evaluate the run on the test part, once.</p>"
    )
    return section("Best settings", body)


def _course(info: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    complete = [trial for trial in trials if trial["state"] == "complete"]
    line = list(
        zip(
            [trial["number"] for trial in complete],
            accumulate((trial["value"] for trial in complete), max),
            strict=True,
        )
    )
    line.append((trials[-1]["number"], line[-1][1]))
    groups = [[(t["number"], t["value"]) for t in group] for group in _groups(trials)]
    best = info["best"]
    plot = draw_points(
        f"{info['metric']} on validation",
        groups,
        marked=(best["trial"], best["value"]),
        line=line,
        xlabel="trial",
    )
    legend = (
        "<p>Filled: complete. Open: pruned, with its best value until then. "
        "Line: the best so far. Circled: the best.</p>"
    )
    return section("The search", f"{legend}{plots([plot])}")


def _settings(info: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    importances = info["importances"]
    names = sorted(info["ranges"], key=lambda name: -importances.get(name, 0.0))
    drawings = [_plot_setting(name, info, trials) for name in names]
    rows: list[list[object]] = []
    for name in names:
        share = Mean(importances.get(name), None)
        rows.append([name, _describe_range(info["ranges"][name]), share])
    note = (
        "Importance is the share of a setting in what sets the best tenth of trials apart; "
        "a rough figure while they are few."
    )
    if not importances:
        note = "Too few complete trials to say which setting matters."
    searched = table(["setting", "searched", "importance"], rows)
    return section("Settings", f"<p>{note}</p>{searched}{plots(drawings)}")


def _plot_setting(name: str, info: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    given = info["ranges"][name]
    choices = given.get("values", [])

    def place(settings: Mapping[str, Any]) -> float:
        value: float = choices.index(settings[name]) if choices else settings[name]
        return value

    best = info["best"]
    return draw_points(
        name,
        [[(place(t["settings"]), t["value"]) for t in group] for group in _groups(trials)],
        marked=(place(best["settings"]), best["value"]),
        log=bool(given.get("log")),
        ticks=[_format(value) for value in choices],
    )


def _groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return the complete and the pruned trials."""
    return [[t for t in trials if t["state"] == state] for state in ("complete", "pruned")]


def _describe_range(given: Mapping[str, Any]) -> str:
    if "values" in given:
        return ", ".join(_format(value) for value in given["values"])
    scale = ", log scale" if given["log"] else ""
    return f"{_format(given['low'])} to {_format(given['high'])}{scale}"


def _trials(info: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    names = list(info["ranges"])
    rows: list[list[object]] = [
        [
            trial["number"],
            trial["state"],
            Mean(trial["value"], None),
            trial["epochs"] or None,  # 0 for a model computed in one go
            f"{trial['seconds']:.1f}",
            *(_format(trial["settings"].get(name)) for name in names),
            trial["reason"] or "",
        ]
        for trial in trials
    ]
    columns = ["trial", "state", info["metric"], "epochs", "seconds", *names, "why it failed"]
    if not any(trial["reason"] for trial in trials):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return section("Trials", table(columns, rows))


def _format(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
