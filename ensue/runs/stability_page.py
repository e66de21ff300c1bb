"""A sweep of learning rates as one HTML file: what diverged, and what was learned."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, product
from typing import Any

from ensue.runs.page import Mean, Tile, build_page, header, notes, plots, section, settings_table
from ensue.runs.page import table as table_of
from ensue.runs.plots import Line, draw_lines
from ensue.runs.stability_result import Point, RuleResult, Stability

# How the lines of a plot differ: in style, then in color.
LOOKS: tuple[tuple[Any, int | None], ...] = tuple(product(("o-", "--", "-"), (0, 1, None)))
SHOWN_ORIGINS = 8


def build_stability_html(found: Stability) -> str:
    """Return the page as HTML text.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    title = f"Stability: {found.facts['bench'].get('name', 'a ranking model')}"
    rules = found.rules
    tiles = [
        Tile(_rate(rule.largest_rate), rule.rule, "largest rate without divergence")
        for rule in rules
    ]
    facts = [f"{len(found.outcomes):,} trainings", f"{len(rules)} rules"]
    return build_page(
        title,
        [
            header(title, facts, tiles),
            section("Divergence and quality against the learning rate", _curves(rules)),
            section("Rules", _rules(rules)),
            section("Rates", _rates(rules)),
            section("Where leaps began", _origins(rules)),
            section("What was trained", settings_table(found.facts)),
        ],
    )


def _curves(rules: list[RuleResult]) -> str:
    drawings = [
        _draw("share of trainings that diverged", rules, lambda p: p.diverged),
        _draw("share with a micro-divergence", rules, lambda p: p.micro),
        _draw("AUC at the end, of those that did not diverge", rules, lambda p: p.auc),
    ]
    if any(point.rmse is not None for rule in rules for point in rule.points):
        title = "RMSE at the end, of those that did not diverge"
        drawings.append(_draw(title, rules, lambda p: p.rmse))
    explanation = notes(
        [
            "Diverged: the loss is not finite, or the AUC of a task is 0.505 or less at the end, "
            "and some loss was more than twice its first.",
            "Micro-divergence: the loss of a task was above its running median by more than 6 "
            "median absolute deviations for 3 steps or more, and came back.",
            "Where a step is shrunk to what the weights can take, it no longer depends on the "
            "learning rate: a flat right end of a curve is what is to be expected.",
        ]
    )
    return plots(drawings) + explanation


def _draw(title: str, rules: list[RuleResult], value: Callable[[Point], float | None]) -> str:
    lines = [
        Line(
            rule.rule,
            [point.rate for point in rule.points],
            [value(point) for point in rule.points],
            series=series,
            style=style,
        )
        for rule, (style, series) in zip(rules, cycle(LOOKS), strict=False)
    ]
    return draw_lines(title, lines, x_label="learning rate", log="x")


def _rules(rules: list[RuleResult]) -> str:
    columns = ["rule", "largest rate without divergence", "and without micro-divergence"]
    columns += ["best AUC", "at rate"]
    rows: list[list[object]] = []
    for rule in rules:
        best = rule.best
        found = [Mean(best.auc), _rate(best.rate)] if best else [None, None]
        rates = [_rate(rule.largest_rate), _rate(rule.largest_calm_rate)]
        rows.append([rule.rule, *rates, *found])
    return table_of(columns, rows)


def _rates(rules: list[RuleResult]) -> str:
    columns = ["rule", "rate", "trainings", "diverged", "micro", "AUC", "sd", "RMSE", "sd"]
    rows = [
        [
            rule.rule,
            _rate(point.rate),
            point.num_runs,
            f"{point.diverged:.0%}",
            f"{point.micro:.0%}",
            *(Mean(v) for v in (point.auc, point.auc_deviation, point.rmse, point.rmse_deviation)),
        ]
        for rule in rules
        for point in rule.points
    ]
    return table_of(columns, rows)


def _origins(rules: list[RuleResult]) -> str:
    rows = [
        [rule.rule, tensor, count]
        for rule in rules
        for tensor, count in list(rule.origins.items())[:SHOWN_ORIGINS]
    ]
    if not rows:
        return "<p>No loss leapt.</p>"
    sentence = "<p>The tensor whose gradient rose first before the loss of a task leapt.</p>"
    return sentence + table_of(["rule", "tensor", "leaps"], rows)


def _rate(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.4g}"
