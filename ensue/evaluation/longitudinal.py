"""How well coordinates of time are: their order, their agreement with what is known of visits.

A coordinate is one up to an increasing transform, so it is compared by ranks. Intervals are over
entities drawn with replacement; visits of one entity are not independent.
Shapes: N visits, P pairs, D width of the codes, K directions, E entities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.intervals import resampled_means

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
CONFIDENCE = 0.95
RIDGE = 1.0


@dataclass(frozen=True)
class Order:
    """How pairs of visits lie along the first direction.

    cosine: mean of their differences with it. ordered: share of the pairs whose later visit lies
        further along. length: of the differences, quartiles.
    """

    cosine: float
    ordered: float
    length: tuple[float, float, float]


@dataclass(frozen=True)
class Agreement:
    """How a coordinate goes with something known of each visit.

    spearman, interval: of the ranks, and of entities drawn again; None of text.
    r2: how much of it a line of the coordinate explains; of text, how much of the coordinate the
        categories explain.
    r2_codes: how much of it all of the code explains, on entities that the ridge was not fitted on.
    num_visits: that have both.
    """

    spearman: float | None
    interval: tuple[float, float] | None
    r2: float
    r2_codes: float | None
    num_visits: int


def measure_order(codes: Floats, direction: Floats, pairs: Integers) -> Order:
    """Return how pairs [P, 2] of codes [N, D] lie along a direction [D].

    A difference of length 0 has cosine 0 and is not in order.
    """
    difference = codes[pairs[:, 1]] - codes[pairs[:, 0]]
    length = np.linalg.norm(difference, axis=1)
    along = difference @ direction
    cosines = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    low, middle, high = np.quantile(length, [0.25, 0.5, 0.75]).tolist()
    return Order(float(cosines.mean()), float((along > 0).mean()), (low, middle, high))


def average_ranks(values: Floats) -> Floats:
    """Return ranks from 1, equal values sharing the mean of theirs [N].

    >>> average_ranks(np.array([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[number]


def correlation(x: Floats, y: Floats) -> float:
    """Return Pearson's correlation; 0 where one of them does not change."""
    x, y = x - x.mean(), y - y.mean()
    product = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / product if product > 0 else 0.0


def spearman(x: Floats, y: Floats) -> float:
    """Return the correlation of ranks.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 27.0]))
    1.0
    """
    return correlation(average_ranks(x), average_ranks(y))


def spearman_interval(
    x: Floats, y: Floats, entities: Integers, *, num_resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the 95% percentile interval of Spearman's correlation over entities drawn again.

    The ranks stay those of all visits.
    """
    a, b = (ranks / len(ranks) - 0.5 for ranks in (average_ranks(x), average_ranks(y)))
    _, number = np.unique(entities, return_inverse=True)
    parts = (np.ones_like(a), a, b, a * a, b * b, a * b)
    sums = np.column_stack([np.bincount(number, weights=part).astype(np.float64) for part in parts])
    means = resampled_means(sums, num_resamples, rng)
    _, a1, b1, aa, bb, ab = (means / means[:, :1]).T
    with np.errstate(invalid="ignore"):
        drawn = (ab - a1 * b1) / np.sqrt((aa - a1**2) * (bb - b1**2))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail]).tolist()
    return low, high


def explained_by_groups(values: Floats, groups: Integers) -> float:
    """Return the share of the variance of values [N] that lies between groups [N] (eta squared)."""
    counts = np.bincount(groups)
    means = np.bincount(groups, weights=values) / np.maximum(counts, 1)
    between = counts @ np.square(means - values.mean())
    total = np.square(values - values.mean()).sum()
    return float(between / total) if total > 0 else 0.0


def ridge(x: Floats, y: Floats, new: Floats) -> Floats:
    """Return what a ridge regression of y [N] on standardized x [N, D] says of `new` [n, D]."""
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    x, new = (x - mean) / deviation, (new - mean) / deviation
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    return y.mean() + new @ weights


def r_squared(y: Floats, found: Floats) -> float:
    """Return 1 - squared error over variance; below 0 where the mean would have been nearer."""
    total = float(np.square(y - y.mean()).sum())
    return 1.0 - float(np.square(y - found).sum()) / total if total > 0 else 0.0
