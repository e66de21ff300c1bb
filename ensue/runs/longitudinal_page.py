"""A direction of time as one HTML file: whether it is one, how it looks, how fast groups move.

Shapes: N visits, F features, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.longitudinal.measurements import ItemBags, Numbers
from ensue.data.longitudinal.visits import Visits
from ensue.runs.longitudinal_result import Longitudinal, MethodResult
from ensue.runs.longitudinal_traversal import Traversal
from ensue.runs.page import (
    Mean,
    Tile,
    build_page,
    header,
    notes,
    plots,
    section,
    settings_table,
    table,
)
from ensue.runs.plots import Line, draw_histogram, draw_lines
from ensue.runs.strip import draw_strip

SHOWN_ENTITIES = 60
SHOWN_FEATURES = 6  # drawn; all are in the table
SHOWN_ITEMS = 15
BINS = 30


def build_longitudinal_html(
    found: Longitudinal,
    tables: Mapping[str, pl.DataFrame],
    visits: Visits,
    traversal: Traversal | None,
) -> str:
    """Return the page as HTML text.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    first = found.methods[0]
    facts = found.facts
    counts = [f"{facts[name]:,} {name}" for name in ("entities", "visits", "pairs")]
    parts = [
        header("A direction of time", [first.method, *counts], _tiles(first)),
        section("How entities move", _movement(found, tables)),
    ]
    if traversal is not None:
        parts.append(section("What time looks like", _appearance(visits, traversal)))
    parts.append(section("Methods", _methods(found.methods)))
    if any(method.agreements for method in found.methods):
        parts.append(section("Beside what is known of the visits", _agreements(found.methods)))
    parts.append(section("Slopes by group", _slopes(found.methods)))
    if any(method.probes for method in found.methods):
        parts.append(section("Predicted from codes", _probes(found.methods)))
    parts.append(section("Settings", settings_table(facts["settings"])))
    return build_page("A direction of time", parts)


def _tiles(method: MethodResult) -> list[Tile]:
    tiles = [
        Tile(f"{method.order.ordered:.1%}", "pairs in order", "later visit further along"),
        Tile(f"{method.order.cosine:.3f}", "mean cosine", "of differences with the direction"),
    ]
    for name, agreement in method.agreements.items():
        if agreement.spearman is not None:
            tiles.append(Tile(f"{agreement.spearman:.3f}", f"Spearman with {name}", "held out"))
    return tiles


def _movement(found: Longitudinal, tables: Mapping[str, pl.DataFrame]) -> str:
    rows, slopes = tables["coordinates"], tables["slopes"]
    is_held_out = found.facts["folds"] > 0
    column = "held_out_coordinate" if is_held_out else "time_coordinate"
    shown = slopes["entity"].gather(_spaced(len(slopes), SHOWN_ENTITIES))
    times: list[float] = []
    values: list[float] = []
    for part in rows.filter(pl.col("entity").is_in(shown.implode())).partition_by(
        "entity", maintain_order=True
    ):
        times += [*part["time"].to_list(), part["time"][-1]]
        values += [*part[column].to_list(), math.nan]  # which a line is broken by
    lines = [Line("", times, values)]
    slope = slopes["slope"].to_numpy()
    low, high = np.quantile(slope, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts, _ = np.histogram(np.clip(slope, edges[0], edges[-1]), edges)
    drawings = [
        draw_lines(f"coordinate of {len(shown)} entities", lines, x_label="time"),
        draw_histogram(
            "slopes of entities", edges.tolist(), counts.tolist(), x_label="slope", log=""
        ),
    ]
    sentences = list(found.facts["notes"])
    if is_held_out:
        sentences.append(
            "Each visit has its coordinate by a model that was not trained on its entity, in "
            "standard deviations over the visits that it was trained on."
        )
    else:
        sentences.append("There are no folds: all figures are of the entities trained on.")
    return plots(drawings) + notes(sentences)


def _appearance(visits: Visits, traversal: Traversal) -> str:
    measured = visits.measured
    if isinstance(measured, ItemBags):
        return _items(measured, traversal)
    assert isinstance(measured, Numbers)
    if measured.features:
        return _features(measured, traversal)
    return draw_strip(traversal.decoded, traversal.change, traversal.steps.tolist())


def _features(measured: Numbers, traversal: Traversal) -> str:
    order = np.argsort(-np.abs(traversal.change), kind="stable")
    center = np.nanmean(measured.values, axis=0)
    spread = np.nanstd(measured.values, axis=0)
    scaled = (traversal.decoded - center) / np.where(spread > 0, spread, 1)
    styles = ("-", "--", "o-")
    lines = [
        Line(
            measured.features[feature],
            traversal.steps.tolist(),
            scaled[:, feature].tolist(),
            series=number % 2,
            style=styles[number // 2],  # type: ignore[arg-type]
        )
        for number, feature in enumerate(order[:SHOWN_FEATURES].tolist())
    ]
    drawing = draw_lines(
        "decoded along the direction, in standard deviations", lines, x_label="time coordinate"
    )
    columns = ["feature", "change a unit of the coordinate", "first", "last"]
    rows = [
        [
            measured.features[feature],
            Mean(float(traversal.change[feature])),
            _number(traversal.decoded[0, feature]),
            _number(traversal.decoded[-1, feature]),
        ]
        for feature in order.tolist()
    ]
    return plots([drawing]) + table(columns, rows)


def _items(measured: ItemBags, traversal: Traversal) -> str:
    order = np.argsort(traversal.change, kind="stable")
    columns = ["item", "change of the log-probability", "first", "last"]

    def rows(items: NDArray[np.int64]) -> list[list[object]]:
        return [
            [
                measured.names[item],
                Mean(float(traversal.change[item])),
                f"{traversal.decoded[0, item]:.2e}",
                f"{traversal.decoded[-1, item]:.2e}",
            ]
            for item in items.tolist()
        ]

    rising = "<h3>Items that rise</h3>" + table(columns, rows(order[::-1][:SHOWN_ITEMS]))
    return rising + "<h3>Items that fall</h3>" + table(columns, rows(order[:SHOWN_ITEMS]))


def _methods(methods: Sequence[MethodResult]) -> str:
    columns = ["method", "pairs in order", "mean cosine", "reconstruction error"]
    columns += ["length of differences", "middle half"]
    rows = [
        [
            found.method,
            Mean(found.order.ordered),
            Mean(found.order.cosine),
            Mean(found.error),
            Mean(found.order.length[1]),
            f"{found.order.length[0]:.3g} to {found.order.length[2]:.3g}",
        ]
        for found in methods
    ]
    warning = (
        "A high cosine alone says little: codes that say nothing else have it too. Compare the "
        "share of pairs in order, and what is known of the visits."
    )
    return table(columns, rows) + notes([warning])


def _agreements(methods: Sequence[MethodResult]) -> str:
    columns = ["method", "column", "Spearman", "R2 of the coordinate", "R2 of all codes", "visits"]
    rows = [
        [
            found.method,
            name,
            Mean(agreement.spearman, agreement.interval),
            Mean(agreement.r2),
            Mean(agreement.r2_codes),
            agreement.num_visits,
        ]
        for found in methods
        for name, agreement in found.agreements.items()
    ]
    return table(columns, rows)


def _slopes(methods: Sequence[MethodResult]) -> str:
    columns = ["method", "group", "entities", "slope", "difference", "error", "p"]
    rows = [
        [
            found.method,
            group.group,
            group.num_entities,
            _number(group.slope),
            None if group.difference is None else _number(group.difference),
            _number(group.error),
            f"{group.p_value:.2g}",
        ]
        for found in methods
        for group in found.slopes.groups
    ]
    note = (
        "Slopes of the coordinate a unit of time, by a mixed model with an intercept and a slope "
        "of each entity. p is of the difference from the first group, of that one of its slope."
    )
    return table(columns, rows) + notes([note])


def _probes(methods: Sequence[MethodResult]) -> str:
    names = list(dict.fromkeys(n for m in methods for probe in m.probes for n in probe.metrics))
    rows = [
        [found.method, probe.column, probe.head, *(Mean(probe.metrics.get(n)) for n in names)]
        for found in methods
        for probe in found.probes
    ]
    return table(["method", "column", "from", *(n.replace("_", " ") for n in names)], rows)


def _spaced(count: int, wanted: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))


def _number(value: float) -> str:
    return f"{value:.4g}"
