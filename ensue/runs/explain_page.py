"""Which part of distillation helped a student of a catalogue, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensue.runs.distill_page import attribution_section
from ensue.runs.page import Mean, Tile, build_page, header, plots, section, table
from ensue.runs.plots import draw_histogram, draw_intervals

COLUMNS = {
    "omega": "mean omega",
    "omega_deviation": "deviation of omega",
    "omega_p_t_correlation": "omega with p_t",
    "gradient_ratio": "gradient ratio",
    "p_t": "target of the label",
    "target_entropy": "entropy of the target",
    "calibration_error": "calibration error",
}


def build_explanation_html(found: Mapping[str, Any]) -> str:
    """Return the page as HTML text.

    Args:
        found: what explain.json holds.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    title = f"What distillation taught, {found['teacher']['name']}"
    tiles = [Tile(f"{found['teacher']['value']:.4f}", f"{found['metric']} of the teacher")]
    for row in found["table"]:
        if row["method"] in ("hard", "kd"):
            name = "labels alone" if row["method"] == "hard" else "the whole teacher (kd)"
            tiles.append(Tile(f"{row['value']:.4f}", f"{found['metric']} with {name}"))
    facts = [f"{len(found['table'])} methods", f"{len(found['seeds'])} seeds, test part"]
    return build_page(
        title,
        [
            header(title, facts, tiles),
            attribution_section(found["attribution"], found["metric"]),
            _methods(found),
            section("Rescaling of examples", diagnostics_plots(found["table"])),
        ],
    )


def _methods(found: Mapping[str, Any]) -> str:
    rows = found["table"]
    margins = [1.96 * (row["standard_error"] or 0.0) for row in rows]
    drawing = draw_intervals(
        f"{found['metric']}, 1.96 standard errors around the mean",
        [row["method"] for row in rows],
        [row["value"] for row in rows],
        [
            (row["value"] - margin, row["value"] + margin)
            for row, margin in zip(rows, margins, strict=True)
        ],
        from_zero=False,
    )
    heads = ["method", found["metric"], "standard error", *COLUMNS.values()]
    cells = [
        [
            row["method"],
            Mean(row["value"]),
            Mean(row["standard_error"]),
            *(Mean(row.get(name)) for name in COLUMNS),
        ]
        for row in rows
    ]
    return section("Methods", plots([drawing]) + table(heads, cells))


def diagnostics_plots(rows: list[Mapping[str, Any]]) -> str:
    """Return what omega is, and a histogram of it for each row that has one."""
    explanation = (
        "<p>Omega is what the target multiplies the gradient of the observed item with, on a "
        "sample of training queries and the trained student; 1 without a teacher. Queries weigh "
        "differently where it is spread.</p>"
    )
    drawings = [
        draw_histogram(
            f"omega, {row['method']}",
            row["omega_edges"],
            row["omega_counts"],
            x_label="omega",
            log="",
        )
        for row in rows
        if "omega_edges" in row and row["method"] != "hard"
    ]
    return explanation + plots(drawings)


def diagnostics_section(method: str, diagnostics: Mapping[str, Any]) -> str:
    """Return the diagnostics of one distilled student, for the report of its run."""
    if not diagnostics:
        return ""
    cells = [[Mean(diagnostics.get(name)) for name in COLUMNS]]
    shown = diagnostics_plots([{"method": method, **diagnostics}])
    return section(f"Distillation by {method}", table(list(COLUMNS.values()), cells) + shown)
