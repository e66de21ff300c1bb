"""The distillation of a classifier as one HTML file; see `ensue.runs.page`."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ensue.runs.page import (
    Mean,
    Tile,
    build_page,
    details,
    header,
    plots,
    section,
    settings_table,
    table,
)
from ensue.runs.plots import Line, draw_histogram, draw_intervals, draw_lines, draw_matrix

MAX_CLASSES = 60  # of a matrix of cosines that is still readable
MATRICES = ("hard", "kd-pt", "kd-classavg", "kd")


def build_distillation_html(found: Mapping[str, Any], *, title: str) -> str:
    """Return the page as HTML text.

    Args:
        found: what distillation.json holds.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    return build_page(
        title,
        [
            _header(title, found),
            attribution_section(found["attribution"], "accuracy"),
            _accuracies(found),
            _omega(found),
            _geometry(found),
            section("Settings", details("settings", settings_table(found["settings"]))),
        ],
    )


def _header(title: str, found: Mapping[str, Any]) -> str:
    seeds = len(found["settings"]["seeds"])
    tiles = [Tile(f"{found['teacher']['accuracy']:.4f}", "accuracy of the teacher")]
    for row in found["table"]:
        if row["method"] in ("hard", "kd"):
            name = "labels alone" if row["method"] == "hard" else "the whole teacher (kd)"
            tiles.append(Tile(f"{row['accuracy']:.4f}", f"accuracy with {name}", _error(row)))
    return header(title, [f"{len(found['table'])} methods", f"{seeds} seeds, test part"], tiles)


def _error(row: Mapping[str, Any]) -> str:
    error = row["standard_error"]
    return "" if error is None else f"standard error {error:.4f}"


def attribution_section(attribution: Mapping[str, Any] | None, unit: str) -> str:
    """Return what each part of distillation gained.

    Args:
        attribution: as `evaluation.attribution.Attribution`; None where it cannot be told.
        unit: what the differences are of.
    """
    if attribution is None:
        text = "What helped is told where hard, ls, kd-pt, kd and kd-classavg (or kd-sim) are run."
        return section("What helped", f"<p>{text}</p>")
    rows = [
        [
            effect["name"],
            effect["definition"],
            Mean(effect["value"]),
            Mean(effect["standard_error"]),
            "-" if effect["share"] is None else f"{effect['share']:.0%}",
        ]
        for effect in [attribution["gain"], *attribution["parts"]]
    ]
    columns = ["", "difference of", unit, "standard error", "share"]
    return section("What helped", f"<p>{escape(attribution['sentence'])}</p>{table(columns, rows)}")


def _accuracies(found: Mapping[str, Any]) -> str:
    rows = found["table"]
    intervals = []
    for row in rows:
        margin = 1.96 * (row["standard_error"] or 0.0)
        intervals.append((row["accuracy"] - margin, row["accuracy"] + margin))
    drawing = draw_intervals(
        "accuracy, 1.96 standard errors around the mean",
        [row["method"] for row in rows],
        [row["accuracy"] for row in rows],
        intervals,
        from_zero=False,
    )
    columns = {
        "accuracy": "accuracy",
        "standard_error": "standard error",
        "contrast": "contrast",
        "calibration_error": "calibration error",
        "soft_entropy": "entropy of the soft target",
        "target_entropy": "entropy with labels",
        "omega_mean": "mean omega",
        "omega_median": "median omega",
        "omega_correlation": "omega with p_t",
    }
    cells = [[row["method"], *(Mean(row[name]) for name in columns)] for row in rows]
    return section("Methods", plots([drawing]) + table(["method", *columns.values()], cells))


def _omega(found: Mapping[str, Any]) -> str:
    explanation = (
        "<p>Omega is what the gradient of the true class is multiplied with by the teacher, for "
        "each training example, during the training of all seeds; 1 without a teacher. Examples "
        "weigh differently where it is spread.</p>"
    )
    drawings = [
        draw_histogram(f"omega, {method}", found["omega_edges"], counts, x_label="omega", log="")
        for method, counts in found["omega_counts"].items()
        if method not in ("hard", "ls")
    ]
    first = found["settings"]["seeds"][0]
    lines = []
    for series, method in enumerate(("kd", "kd-pt")):
        for outcome in found["outcomes"]:
            if outcome["method"] == method and outcome["seed"] == first:
                by_epoch = outcome["omega_by_epoch"]
                epochs = [float(epoch) for epoch in by_epoch]
                lines.append(Line(method, epochs, list(by_epoch.values()), series))
    curve = draw_lines("median omega", lines, x_label="epoch") if lines else ""
    body = plots([curve, *drawings]) if curve else plots(drawings)
    return section("Rescaling of examples", explanation + body)


def _geometry(found: Mapping[str, Any]) -> str:
    superclasses = found["superclasses"]
    first = found["settings"]["seeds"][0]
    own = {o["method"]: o["cosines"] for o in found["outcomes"] if o["seed"] == first}
    size = len(next(iter(own.values())))
    explanation = (
        "<p>Cosines of the output layer's rows, less their mean, with the first seed: one color "
        "for likeness, the other for its opposite. "
    )
    if size > MAX_CLASSES:
        text = f"Not drawn for {size} classes; they are in distillation.json.</p>"
        return section("Output layer", explanation + text)
    order = list(range(size))
    borders: list[int] = []
    if superclasses is None:
        explanation += "Classes are in their own order.</p>"
    else:
        order.sort(key=lambda c: superclasses[c])
        groups = [superclasses[c] for c in order]
        borders = [i for i in range(1, size) if groups[i] != groups[i - 1]]
        explanation += "Classes are in the order of their super-classes.</p>"
    drawings = [
        draw_matrix(name, [[own[name][a][b] for b in order] for a in order], borders=borders)
        for name in MATRICES
        if name in own
    ]
    return section("Output layer", explanation + plots(drawings))
