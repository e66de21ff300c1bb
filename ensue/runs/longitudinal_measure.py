"""Measure a method on entities that its models were not trained on.

Shapes: N visits, D width of the codes, P pairs, E entities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ensue.data.longitudinal.visits import Pairs, Visits
from ensue.errors import DataError, UsageError
from ensue.evaluation.longitudinal import (
    Agreement,
    Order,
    correlation,
    explained_by_groups,
    measure_order,
    r_squared,
    ridge,
    spearman,
    spearman_interval,
)
from ensue.evaluation.mixed_model import MixedModel, fit_mixed_model
from ensue.runs.longitudinal_fit import Fitted, reconstruction_error
from ensue.runs.longitudinal_result import GroupSlope, Slopes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MAX_PAIRS = 1 << 20  # measured, of those held out
RESAMPLES = 1000
MISSING = "missing"


@dataclass(frozen=True)
class Fold:
    """The codes of all visits by a model, and which visits it was trained on.

    codes: [N, D]. train, held: rows; where there are no folds, both are all.
    """

    fitted: Fitted
    codes: Floats
    train: Integers
    held: Integers


def held_out_coordinate(folds: Sequence[Fold], num_visits: int) -> Floats:
    """Return the time coordinate [N] of each visit by the model that was not trained on it.

    Each model's is at mean 0 and deviation 1 over its own training visits.
    """
    found = np.full(num_visits, np.nan)
    for fold in folds:
        direction = fold.fitted.model.directions[0].double().cpu().numpy()
        along = fold.codes[fold.held] @ direction
        found[fold.held] = (along - fold.fitted.center) / fold.fitted.spread
    return found


def measure_orders(visits: Visits, folds: Sequence[Fold], min_gap: float | None) -> Order:
    """Return how held-out pairs lie along the direction, all folds' pairs together.

    Raises:
        DataError: no fold has such a pair.
    """
    found, weights = [], []
    for fold in folds:
        pairs = Pairs(visits, min_gap=min_gap, rows=fold.held)
        if len(pairs) == 0:
            continue
        index = np.arange(len(pairs))
        if len(pairs) > MAX_PAIRS:
            index = np.random.default_rng(0).integers(len(pairs), size=MAX_PAIRS)
        direction = fold.fitted.model.directions[0].double().cpu().numpy()
        order = measure_order(fold.codes, direction, pairs.gather(index))
        found.append([order.cosine, order.ordered, *order.length])
        weights.append(len(index))
    if not found:
        raise DataError("the entities that are held out need pairs of visits; there are none.")
    cosine, ordered, *length = np.average(found, axis=0, weights=weights).tolist()
    return Order(cosine, ordered, (length[0], length[1], length[2]))


def measure_error(visits: Visits, folds: Sequence[Fold]) -> float | None:
    """Return the mean reconstruction error of held-out visits; None where nothing is decoded."""
    if folds[0].fitted.model.config.method == "simclr":
        return None
    errors = [
        reconstruction_error(
            fold.fitted.model,
            fold.fitted.rows(visits.measured),
            torch.from_numpy(fold.codes).float(),
            fold.held,
        )
        for fold in folds
    ]
    return float(np.average(errors, weights=[len(fold.held) for fold in folds]))


def measure_agreement(
    visits: Visits, folds: Sequence[Fold], coordinate: Floats, column: pl.Series
) -> Agreement:
    """Return how the held-out coordinate [N] goes with a column of the visits.

    Raises:
        DataError: fewer than three visits have a value.
    """
    is_number = column.dtype.is_numeric() or column.dtype == pl.Boolean
    known = np.flatnonzero(column.is_not_null().to_numpy() & ~np.isnan(coordinate))
    if is_number:
        values = column.cast(pl.Float64).to_numpy()
        known = known[np.isfinite(values[known])]
    if len(known) < 3:
        raise DataError(
            f"column {column.name!r} must be known of three visits or more; got {len(known)}."
        )
    if not is_number:
        codes = column.cast(pl.String).gather(known).rank("dense").to_numpy().astype(np.int64)
        explained = explained_by_groups(coordinate[known], codes - 1)
        return Agreement(None, None, explained, None, len(known))
    y, found = values[known], coordinate[known]
    interval = spearman_interval(
        found,
        y,
        visits.entities[known],
        num_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return Agreement(
        spearman(found, y),
        interval,
        correlation(found, y) ** 2,
        _r2_of_codes(folds, values, known),
        len(known),
    )


@dataclass(frozen=True)
class Groups:
    """The number of the group of each visit [N], and the names of the groups, the largest first."""

    codes: Integers
    names: list[str]


def group_labels(visits: Visits, column: str | None) -> Groups:
    """Return the groups that a column says; without one, all are in one.

    Raises:
        UsageError: an entity is in two groups.
    """
    if column is None:
        return Groups(np.zeros(len(visits), np.int64), ["all"])
    labels = visits.columns[column].cast(pl.String).fill_null(MISSING)
    of_entities = pl.DataFrame({"entity": visits.entities, "group": labels})
    counts = of_entities.group_by("entity", maintain_order=True).agg(pl.col("group").unique())
    several = counts.filter(pl.col("group").list.len() > 1)
    if len(several):
        name = visits.names[int(several["entity"][0])]
        raise UsageError(
            f"an entity must be in one group; {name!r} is in {several['group'][0].to_list()} of "
            f"{column!r}."
        )
    sizes = counts.explode("group").group_by("group").len()
    names = sizes.sort("len", "group", descending=[True, False])["group"].to_list()
    codes = labels.replace_strict(names, np.arange(len(names)), return_dtype=pl.Int64)
    return Groups(codes.to_numpy().astype(np.int64), names)


def fit_slopes(visits: Visits, coordinate: Floats, groups: Groups) -> tuple[Slopes, MixedModel]:
    """Return the slopes of groups, and the mixed model behind them.

    Raises:
        DataError: too little is known.
    """
    names = groups.names
    model = fit_mixed_model(
        coordinate, visits.times, visits.entities, groups=groups.codes, group_names=names
    )
    firsts = np.searchsorted(visits.entities, np.arange(visits.num_entities))
    sizes = np.bincount(groups.codes[firsts], minlength=len(names)).tolist()
    first = model.coefficient("slope")
    rows = [GroupSlope(names[0], sizes[0], first.value, None, first.error, first.p_value)]
    for name, size in zip(names[1:], sizes[1:], strict=True):
        other = model.coefficient(f"{name}:slope")
        slope = first.value + other.value
        rows.append(GroupSlope(name, size, slope, other.value, other.error, other.p_value))
    return Slopes(rows, *model.deviations), model


def _r2_of_codes(folds: Sequence[Fold], values: Floats, known: Integers) -> float | None:
    """Return how well a ridge on all of the code does on held-out entities; None without folds."""
    found, seen = [], []
    for train, held, codes in _known_parts(folds, known):
        if len(train) < 3:
            return None
        found.append(ridge(codes[train], values[train], codes[held]))
        seen.append(values[held])
    return r_squared(np.concatenate(seen), np.concatenate(found)) if found else None


def _known_parts(
    folds: Sequence[Fold], known: Integers
) -> Iterator[tuple[Integers, Integers, Floats]]:
    """Yield the known visits of each fold's two parts, and its codes; nothing without folds."""
    if len(folds) > 1:
        for fold in folds:
            train, held = (np.intersect1d(part, known) for part in (fold.train, fold.held))
            yield train, held, fold.codes
