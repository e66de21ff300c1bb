"""First centers by k-means++: each far from those before it.

Arthur and Vassilvitskii, SODA 2007, in its greedy form: of a few rows drawn by their squared
distance, the one that leaves the least distance in all.
Shapes: s rows of a sample, K centers, D width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

MOST_PRODUCTS = 1 << 26  # of rows with rows that are made at once; else as they are needed
NOTHING = 1e-6  # of the squared lengths: what rounding may leave of a distance of 0


class _Sample:
    """Rows [s, D], and the distances between them."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = torch.from_numpy(rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32))
        self._norms = self._rows.square().sum(dim=1)
        self._products = None
        if len(rows) ** 2 <= MOST_PRODUCTS:
            self._products = self._rows @ self._rows.T

    def distances(self, places: NDArray[np.int64]) -> torch.Tensor:
        """Return squared distances [C, s] of all rows to those at some places [C]."""
        at = torch.from_numpy(places)
        made = self._products
        products = self._rows[at] @ self._rows.T if made is None else made[at]
        lengths = self._norms[at, None] + self._norms
        found = torch.add(lengths, products, alpha=-2)
        # A row that is drawn already, or equals one, must not be drawn for a rounding.
        return found.masked_fill_(found < NOTHING * lengths, 0)


def seed_centers(
    rows: NDArray[np.float32], num_clusters: int, *, tries: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return rows of a sample [s, D] as first centers [K, D], K <= s: the best of some tries.

    Rows that are equal are taken twice only when no other is left.
    """
    sample = _Sample(rows)
    found = [_draw(sample, len(rows), num_clusters, rng) for _ in range(tries)]
    places, _ = min(found, key=lambda one: one[1])
    return rows[places]


def _draw(
    sample: _Sample, num_rows: int, num_clusters: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], float]:
    """Return places in the sample [K], and the sum of squared distances to the nearest of them."""
    num_candidates = 2 + int(math.log(num_clusters))
    places = np.empty(num_clusters, dtype=np.int64)
    places[0] = rng.integers(num_rows)
    closest = sample.distances(places[:1])[0]
    for k in range(1, num_clusters):
        cumulated = np.cumsum(closest.numpy(), dtype=np.float64)
        if cumulated[-1] == 0:
            left = np.setdiff1d(np.arange(num_rows), places[:k])
            places[k:] = rng.choice(left, num_clusters - k, replace=False)
            break
        drawn = rng.random(num_candidates) * cumulated[-1]
        candidates = np.minimum(np.searchsorted(cumulated, drawn, side="right"), num_rows - 1)
        after = torch.minimum(sample.distances(candidates), closest)
        best = int(after.sum(dim=1).argmin())
        places[k], closest = candidates[best], after[best]
    return places, float(closest.sum())
