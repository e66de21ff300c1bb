"""Centers moved from where they are hardly missed to where they are needed most.

Passes of Lloyd's never do that: one center for two groups, and two centers in one group, stay. The
cluster whose rows lose least by going to their second nearest center is dissolved, and the one that
gains most is divided in two (Ismkhan, Pattern Recognition 79, 2018). Departure: all exchanges that
promise a gain are made at once; a cluster takes part in one of them.
Shapes: n rows, K clusters, D width.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ensue.clustering.assign import LEAST_CLUSTERS, Vectors, by_cluster
from ensue.nn.stretches import in_stretches

POWERS, DIVISIONS = 3, 4  # rounds that find the longest axis of a cluster, then its halves
_compile: Any = numba.njit(cache=True, nogil=True, fastmath=True)


def exchange_(
    labels: NDArray[np.int64],
    rows: Vectors,
    second: NDArray[np.int32],
    extra: NDArray[np.float64],
    sums: NDArray[np.float64],
    *,
    spherical: bool,
) -> int:
    """Give rows the labels [n] that they have after all exchanges, and return how many there are.

    Args:
        second, extra: [n], the second nearest center of each row, and how much larger its squared
            distance is than the least.
        sums: [K, D], of the rows of each label.
        spherical: centers have length 1.
    """
    num_clusters = len(sums)
    order, starts, ends = by_cluster(labels, num_clusters)
    sizes = ends - starts
    halves, counts = np.zeros_like(sums), np.zeros(num_clusters, dtype=np.int64)
    sides = np.zeros(len(rows), dtype=np.bool_)
    arrays = [starts, ends, halves, counts, sums]
    in_stretches(_halve, arrays, (order, rows, sides), least=LEAST_CLUSTERS)
    whole = (counts > 0) & (counts < sizes)
    gains = np.zeros(num_clusters)
    gains[whole] = _gains(halves[whole], counts[whole], sums[whole], sizes[whole], spherical)
    pairs = _pairs(gains, np.asarray(np.bincount(labels, extra, num_clusters), np.float64))
    for _, dissolved in pairs:
        gone = order[starts[dissolved] : ends[dissolved]]
        labels[gone] = second[gone]
    for divided, dissolved in pairs:
        part = slice(starts[divided], ends[divided])
        labels[order[part][sides[part]]] = dissolved
    return len(pairs)


def _gains(
    halves: NDArray[np.float64],
    counts: NDArray[np.int64],
    sums: NDArray[np.float64],
    sizes: NDArray[np.int64],
    spherical: bool,
) -> NDArray[np.float64]:
    """Return by how much the sum of squared distances falls when each cluster is divided [K].

    Args:
        halves: [K, D], sums of the differences of the rows of one half to the mean of the cluster.
    """
    if not spherical:
        return np.square(halves).sum(axis=1) * sizes / (counts * (sizes - counts))
    first = halves + sums * (counts / sizes)[:, None]
    lengths = [np.linalg.norm(total, axis=1) for total in (first, sums - first, sums)]
    return 2 * np.asarray(lengths[0] + lengths[1] - lengths[2])


def _pairs(gains: NDArray[np.float64], losses: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return which clusters to divide and which to dissolve for each, all of them distinct."""
    best_first, least_first = (
        np.argsort(values, kind="stable").tolist() for values in (-gains, losses)
    )
    used: set[int] = set()
    pairs = []
    cheapest = iter(least_first)
    for divided in best_first:
        if divided in used:
            continue
        used.add(divided)
        dissolved = next((k for k in cheapest if k not in used), None)
        if dissolved is None or gains[divided] <= losses[dissolved]:
            break
        used.add(dissolved)
        pairs.append((divided, dissolved))
    return pairs


@_compile
def _halve(  # type: ignore[no-untyped-def]
    starts, ends, halves, counts, sums, order, rows, sides
):
    """Divide the rows order[starts[k] : ends[k]] of each cluster in two, by 2-means.

    Fills counts [K] and halves [K, D] of one half (see `_gains`), and sides [n], True by place in
    the order. The first halves lie on the two sides of the mean on the longest axis.
    """
    for k in range(len(starts)):
        places = order[starts[k] : ends[k]]
        part = sides[starts[k] : ends[k]]
        if len(places) < 2:
            continue
        mean = sums[k] / len(places)
        axis = _longest_axis(rows, places, mean)
        middle = 0.0
        for _ in range(DIVISIONS):
            counts[k] = _divide(rows, places, mean, axis, middle, part, halves[k])
            others = len(places) - counts[k]
            if counts[k] == 0 or others == 0:
                break
            first, second = halves[k] / counts[k], -halves[k] / others
            axis = first - second
            middle = 0.5 * (axis * (first + second)).sum()


@_compile
def _longest_axis(rows, places, mean):  # type: ignore[no-untyped-def]
    """Return the axis [D] of the largest variance, by powers from the farthest row."""
    axis, total = np.zeros_like(mean), np.zeros_like(mean)
    farthest = 0.0
    for place in places:
        row = rows[place]
        distance = 0.0
        for d in range(len(mean)):
            distance += (row[d] - mean[d]) ** 2
        if distance > farthest:
            farthest = distance
            axis[:] = row - mean
    for _ in range(POWERS):
        total[:] = 0
        for place in places:
            row = rows[place]
            along = 0.0
            for d in range(len(mean)):
                along += (row[d] - mean[d]) * axis[d]
            for d in range(len(mean)):
                total[d] += along * (row[d] - mean[d])
        length = np.sqrt((total * total).sum())
        if length > 0:
            axis[:] = total / length
    return axis


@_compile
def _divide(rows, places, mean, axis, middle, part, half):  # type: ignore[no-untyped-def]
    """Fill part with which rows lie beyond the middle of an axis, sum them, and return how many."""
    count = 0
    half[:] = 0
    for i in range(len(places)):
        row = rows[places[i]]
        along = 0.0
        for d in range(len(mean)):
            along += (row[d] - mean[d]) * axis[d]
        part[i] = along > middle
        if part[i]:
            count += 1
            for d in range(len(mean)):
                half[d] += row[d] - mean[d]
    return count
