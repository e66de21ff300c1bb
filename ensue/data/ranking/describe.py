"""What a ranking dataset says of itself: a sentence before the work, dataset.json after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ensue.data.ranking.collect import Plan
from ensue.data.ranking.info import PartLabels, RankingColumnInfo, RankingInfo, TaskInfo
from ensue.data.ranking.scaling import Scaling
from ensue.data.ranking.side_tables import SideFeature
from ensue.data.ranking.writer import Figures, FinalOrder
from ensue.data.splits import PARTS, Split
from ensue.data.tables import Table

_ROWS = 1 << 20


def describe_roles(table: Table, plan: Plan) -> str:
    """Return a sentence on what the columns of the rows are taken for."""
    roles = plan.roles
    parts = [f"target {one.name!r} is {one.kind} ({one.reason})" for one in plan.targets]
    for role in ("user", "item", "time", "group"):
        if (column := getattr(roles, role)) is not None:
            parts.append(f"{role} is {column!r}")
    parts += [f"{one.name!r} is {one.kind} ({one.reason})" for one in roles.features]
    if roles.unused:
        unused = ", ".join(f"{name!r} ({why})" for name, why in roles.unused.items())
        parts.append(f"left out: {unused}")
    if roles.time is None:
        parts.append("no time, so rows count as oldest first")
    return f"Reading rows from {table.path}: {', '.join(parts)}."


def describe_columns(
    plan: Plan,
    sides: Sequence[SideFeature],
    scaling: Scaling,
    figures: Figures,
    sizes: Mapping[str, int],
    history: str | None,
) -> list[RankingColumnInfo]:
    """Return the columns in their order: those of rows, of items and users, and the history.

    Args:
        sizes: of each vocabulary and of each vector of rows.
        history: the name of the column of a log's histories, where there is one.
    """
    scaled = iter(zip(scaling.means, scaling.deviations, scaling.is_log, strict=True))
    columns = [*_of_rows(plan, sizes), *_of_sides(sides)]
    if history is not None:
        assert plan.roles.item is not None
        columns.append(
            RankingColumnInfo(
                name=history,
                kind="history",
                size=sizes[plan.roles.item],
                vocabulary=plan.roles.item,
                table="log",
                sources=[history],
                reason="the user's items of earlier rows",
            )
        )
    described = []
    for column in columns:
        update: dict[str, object] = {"missing": figures.missing[column.name]}
        if column.kind == "numeric":
            mean, deviation, is_log = next(scaled)
            update |= {"mean": float(mean), "deviation": float(deviation), "log": bool(is_log)}
        described.append(column.model_copy(update=update))
    return described


def describe_tasks(
    plan: Plan, labels: NDArray[np.float32], parts: Mapping[str, tuple[int, int]]
) -> list[TaskInfo]:
    """Return the tasks, with what labels [R, M] each part has."""
    return [
        TaskInfo(
            name=target.name,
            kind=target.kind,
            column=target.column,
            comparison=str(target.comparison or ""),
            weight=target.weight,
            labels={part: _labels(labels[first:end, m]) for part, (first, end) in parts.items()},
            reason=target.reason,
        )
        for m, target in enumerate(plan.targets)
    ]


def describe_dataset(
    plan: Plan,
    columns: list[RankingColumnInfo],
    tasks: list[TaskInfo],
    final: FinalOrder,
    split: Split,
    sizes: Mapping[str, int],
    max_history: int,
) -> RankingInfo:
    """Return what dataset.json is to say, without name, sources and hash."""
    roles = plan.roles
    parts = part_bounds(final)
    has_history = any(column.kind == "history" for column in columns)
    return RankingInfo(
        name="",
        sources=[],
        parts=parts,
        counts={
            "rows": final.ends[2],
            **{part: end - first for part, (first, end) in parts.items()},
        },
        vocabularies=dict(sizes),
        columns=columns,
        tasks=tasks,
        user=roles.user,
        item=roles.item,
        time=roles.time,
        group=roles.group,
        history_length=max_history if has_history else 0,
        history_where=f"{plan.events.column}{plan.events}" if plan.events else "",
        split=split.as_dict(),
        unused=roles.unused,
        notes=list(_notes(plan, split)),
        hash="",
    )


def part_bounds(final: FinalOrder) -> dict[str, tuple[int, int]]:
    """Return the first row of each part, and the one behind its last."""
    starts = (0, *final.ends[:2])
    return dict(zip(PARTS, zip(starts, final.ends, strict=True), strict=True))


def _of_rows(plan: Plan, sizes: Mapping[str, int]) -> Iterator[RankingColumnInfo]:
    for one in plan.roles.features:
        size = sizes[one.vocabulary or one.name] if one.kind != "numeric" else 1
        yield RankingColumnInfo(
            name=one.name,
            kind=one.kind,
            size=size,
            vocabulary=one.vocabulary,
            sources=list(one.sources),
            separator=one.separator,
            reason=one.reason,
        )


def _of_sides(sides: Sequence[SideFeature]) -> Iterator[RankingColumnInfo]:
    for side in sides:
        feature = side.feature
        yield RankingColumnInfo(
            name=feature.name,
            kind=feature.kind,
            size=side.size,
            vocabulary=feature.name if side.vocabulary is not None else "",
            table=side.side,
            sources=list(feature.sources),
            separator=feature.separator,
            reason=feature.reason,
        )


def _labels(labels: NDArray[np.float32]) -> PartLabels:
    """Return how many of labels [n] are there, and their mean."""
    count, total = 0, 0.0
    for first in range(0, len(labels), _ROWS):
        there = labels[first : first + _ROWS].astype(np.float64)
        there = there[~np.isnan(there)]
        count += len(there)
        total += float(there.sum())
    return PartLabels(labeled=count, mean=total / count if count else None)


def _notes(plan: Plan, split: Split) -> Iterator[str]:
    if plan.roles.time is None and split.kind != "files":
        yield "The input has no times: its rows count as oldest first."
