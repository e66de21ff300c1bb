"""Compiled loops of k-means: the nearest center out of a block of products, and sums of clusters.

Shapes: B rows of a block, n rows, K centers, D width.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# Sums may be reordered to use the vector units; all values are finite.
_compile: Any = numba.njit(cache=True, nogil=True, fastmath=True)
LANES = 64  # centers whose least value is kept, so that few are looked at again


@_compile
def nearest(  # type: ignore[no-untyped-def]
    products, rows, reach, labels, distances, centers, norms
):
    """Fill labels and distances [B]: the nearest of centers [K, D] to each row, and how far.

    The least of norms[k] - 2 products[b, k] is nearest but for what rounding of float32 hides;
    where others lie within that, `reach[b]`, the distances themselves decide, in float64, and the
    first of equal ones. Distances are squared.
    """
    num_centers = len(norms)
    least = np.empty((num_centers + LANES - 1) // LANES, dtype=np.float32)
    two = np.float32(2)
    for b in range(len(rows)):
        row = products[b]
        lowest = np.float32(np.inf)
        for lane in range(len(least)):
            stop = min((lane + 1) * LANES, num_centers)
            low = np.float32(np.inf)
            for k in range(lane * LANES, stop):
                low = min(low, norms[k] - two * row[k])
            least[lane] = low
            lowest = min(lowest, low)
        limit = lowest + reach[b]
        best, shortest = -1, np.inf
        for lane in range(len(least)):
            if least[lane] <= limit:
                for k in range(lane * LANES, min((lane + 1) * LANES, num_centers)):
                    if norms[k] - two * row[k] <= limit:
                        distance = 0.0
                        for d in range(rows.shape[1]):
                            gap = np.float64(rows[b, d]) - np.float64(centers[k, d])
                            distance += gap * gap
                        if distance < shortest or best < 0:
                            best, shortest = k, distance
        labels[b], distances[b] = best, shortest


@_compile
def sum_clusters(starts, ends, sums, order, rows):  # type: ignore[no-untyped-def]
    """Fill sums [K, D] with the sum of rows[order[starts[k] : ends[k]]] of each cluster k."""
    total = np.empty(rows.shape[1])
    for k in range(len(starts)):
        total[:] = 0
        for place in range(starts[k], ends[k]):
            row = rows[order[place]]
            for d in range(len(total)):
                total[d] += row[d]
        sums[k] = total
