"""The few nearest centers of every row, found again with less work after centers have moved.

A center that is not among those of a row was at least so far away, and has moved at most so much:
where even then it is farther than the nearest of the known ones, it need not be looked at. Bounds
of this kind are Drake and Hamerly's (OPT 2012). Departure: centers that moved far are
compared with all rows, so that the bounds need only hold for the others.
Shapes: n rows, K centers, D width, C centers that are known of each row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.clustering.assign import LEAST_STRETCH, Vectors, assign_few, offer_
from ensue.clustering.kernels import measure
from ensue.nn.stretches import in_stretches

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # of centers that may be said to have moved far
WORTH_IT = 0.8  # of the products of all rows and centers; with more than that, all are made
ROWS_AT_ONCE = 1 << 15
MARGIN = 2e-5  # of distances: what rounding of float32 may hide


@dataclass(frozen=True)
class Nearest:
    """The C nearest centers of each row, as far as they are known.

    places: [n, C], in order; the first is the nearest of all. distances: [n, C], squared.
    bounds: [n], how far any center is at least that is not among them; not squared.
    """

    places: NDArray[np.int32]
    distances: NDArray[np.float64]
    bounds: NDArray[np.float64]

    @property
    def inertia(self) -> float:
        """The sum of squared distances to the nearest center."""
        return float(self.distances[:, 0].sum())


def find(rows: Vectors, centers: Vectors, count: int) -> Nearest:
    """Return the C = count nearest centers of each row."""
    places, distances = assign_few(rows, centers, count)
    return Nearest(places, distances, np.sqrt(distances[:, -1]))


def find_again(rows: Vectors, known: Nearest, before: Vectors, centers: Vectors) -> Nearest:
    """Return the C centers [K, D] of each row that are known now, the nearest of all first.

    Args:
        known: of the centers before.
    """
    drift = np.sqrt(np.square(centers.astype(np.float64) - before).sum(axis=1))
    places, distances = known.places.copy(), np.empty_like(known.distances)
    in_stretches(measure, [rows, places, distances], (centers,), least=LEAST_STRETCH)
    slack = known.bounds - np.sqrt(distances[:, 0])
    cost, far = _cheapest(drift, np.sort(slack))
    count = places.shape[1]
    if cost > WORTH_IT:
        return find(rows, centers, count)
    bounds = known.bounds - drift[~far].max(initial=0)
    # What falls out of the places, or is offered and does not come in, is no nearer than the last.
    moved = np.flatnonzero(far).astype(np.int32)
    if len(moved):
        offer_(places, distances, rows, centers, moved)
    bounds = np.minimum(bounds, np.sqrt(distances[:, -1]))
    unsure = np.flatnonzero(bounds * (1 - MARGIN) <= np.sqrt(distances[:, 0]))
    for first in range(0, len(unsure), ROWS_AT_ONCE):
        part = unsure[first : first + ROWS_AT_ONCE]
        places[part], distances[part] = assign_few(rows[part], centers, count)
        bounds[part] = np.sqrt(distances[part, -1])
    return Nearest(places, distances, bounds)


def _cheapest(
    drift: NDArray[np.float64], slack: NDArray[np.float64]
) -> tuple[float, NDArray[np.bool_]]:
    """Return which centers to compare with all rows [K], and the cost in products of them all.

    Args:
        slack: [n], sorted, what the others may have moved before a row needs all centers.
    """
    falling = np.sort(drift)[::-1]
    costs = []
    for share in SHARES:
        limit = falling[int(share * len(drift))]
        unsure = np.searchsorted(slack, limit, side="right") / len(slack)
        costs.append((float((drift > limit).mean() + unsure), limit))
    cost, limit = min(costs)
    return cost, drift > limit
