"""The evaluation of a ranking model as sections of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensue.evaluation.ranking.summary import METRICS
from ensue.runs.page import (
    Mean,
    Tile,
    details,
    notes,
    plots,
    section,
    table,
)
from ensue.runs.plots import Line, draw_lines

NAMES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "pr_auc": "PR-AUC",
    "log_loss": "log loss",
    "normalized_entropy": "normalized entropy",
    "brier": "Brier score",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
    "calibration": "calibration",
    "calibration_error": "calibration error",
}
_MAIN = {"binary": "auc", "regression": "rmse"}


def task_tiles(found: Mapping[str, Any]) -> list[Tile]:
    """Return the figure of each task to see first."""
    tiles = []
    for task, figures in found["tasks"].items():
        name = _MAIN[figures["kind"]]
        value, interval = figures["metrics"][name], figures["intervals"].get(name)
        below = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        tiles.append(
            Tile("-" if value is None else f"{value:.4f}", f"{NAMES[name]}, {task}", below)
        )
    return tiles


def ranking_sections(found: Mapping[str, Any]) -> list[str]:
    """Return the sections on tasks, calibration, curves and slices.

    Args:
        found: `RankingEvaluation.to_dict()`.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    parts = [_tasks(found), _calibration(found), _curves(found), _slices(found)]
    return [part for part in parts if part]


def _tasks(found: Mapping[str, Any]) -> str:
    body = "".join(
        _figures_table("task", [(task, f) for task, f in found["tasks"].items()], kind)
        for kind in METRICS
    )
    reasons = [
        f"{task} has no {NAMES[name]}: {reason}."
        for task, figures in found["tasks"].items()
        for name, reason in figures["undefined"].items()
    ]
    interval = found["protocol"]["interval"]
    return section("Tasks", f"{body}{notes(reasons)}{notes([f'Intervals: {interval}.'])}")


def _figures_table(head: str, rows: list[tuple[str, Mapping[str, Any]]], kind: str) -> str:
    """Return a table of the tasks of one kind; nothing where there are none."""
    own = [(name, figures) for name, figures in rows if figures["kind"] == kind]
    if not own:
        return ""
    metrics = [name for name in METRICS[own[0][1]["kind"]] if name in own[0][1]["metrics"]]
    columns = [head, "rows", "mean label", *(NAMES[name] for name in metrics)]
    cells: list[list[object]] = []
    for name, figures in own:
        row: list[object] = [name, figures["rows"], Mean(figures["mean_label"])]
        for metric in metrics:
            interval = figures["intervals"].get(metric)
            shown = (interval[0], interval[1]) if interval else None
            row.append(Mean(figures["metrics"][metric], shown))
        cells.append(row)
    return table(columns, cells)


def _calibration(found: Mapping[str, Any]) -> str:
    drawings = []
    for task, figures in found["tasks"].items():
        bins = figures["reliability"]
        if bins:
            x = [row["mean_prediction"] for row in bins]
            y = [row["mean_label"] for row in bins]
            ends = [min(*x, *y), max(*x, *y)]
            lines = [
                Line("mean label", x, y, style="o-"),
                Line("calibrated", ends, ends, series=None, style="--"),
            ]
            label = f"mean prediction, {len(bins)} bins of equal weight"
            drawings.append(draw_lines(f"calibration of {task}", lines, x_label=label))
    return section("Calibration", plots(drawings)) if drawings else ""


def _curves(found: Mapping[str, Any]) -> str:
    drawings = []
    for task, figures in found["tasks"].items():
        curve = figures["curve"]
        if curve is None:
            continue
        recall = curve["recall"]
        roc = [
            Line("model", curve["false_positive_rate"], recall),
            Line("chance", [0.0, 1.0], [0.0, 1.0], series=None, style="--"),
        ]
        drawings.append(draw_lines(f"ROC of {task}", roc, x_label="false positive rate"))
        share = figures["mean_label"]
        precision = [
            Line("model", recall, curve["precision"]),
            Line("chance", [0.0, 1.0], [share, share], series=None, style="--"),
        ]
        drawings.append(draw_lines(f"precision of {task}", precision, x_label="recall"))
    return section("Curves", plots(drawings)) if drawings else ""


def _slices(found: Mapping[str, Any]) -> str:
    body = ""
    for name, parts in found["slices"].items():
        for task, figures in found["tasks"].items():
            rows = [(part, tasks[task]) for part, tasks in parts.items() if tasks[task]["rows"]]
            shown = _figures_table(name, rows, figures["kind"])
            body += details(f"{task}, {name}", shown, is_open=len(parts) <= 5) if shown else ""
    return section("Slices", body) if body else ""
