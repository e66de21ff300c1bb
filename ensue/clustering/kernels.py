"""Compiled loops of k-means: the nearest centers out of a block of products, and sums of clusters.

Shapes: B rows of a block, n rows, K centers, D width, C nearest centers that are kept.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# Sums may be reordered to use the vector units; all values are finite.
_compile: Any = numba.njit(cache=True, nogil=True, fastmath=True)
LANES = 64  # centers k, k + LANES, ... share a lane, whose least value is kept
HALVINGS = 8  # of the span of these values, to tell the lower ones
ALIKE = 1 + 2e-5  # ratio of squared distances that float32 may hide


@_compile
def nearest(  # type: ignore[no-untyped-def]
    products, rows, reach, places, distances, centers, numbers, norms
):
    """Put into places and distances [B, C] what is nearer to each row among some of the centers.

    Both hold C known centers before, in order, or no one: an infinite distance. The products are
    those with centers[numbers], [B, N]. Distances are squared.
    norms[k] - 2 products[b, k] is the distance but for ||x||^2 and for what rounding of float32
    hides. All centers that lie within that, `reach[b]`, of the C-th known one, or of the C-th lane,
    are compared by their distances themselves, and where these are alike in float64; of equal
    ones by number. So neither result depends on how the products were rounded.
    """
    num_centers, count = len(norms), places.shape[1]
    whole = num_centers - num_centers % LANES
    least = np.empty(LANES, dtype=np.float32)
    two = np.float32(2)
    for b in range(len(rows)):
        row = products[b]
        least[:] = np.inf
        for first in range(0, whole, LANES):
            for lane in range(LANES):
                k = first + lane
                least[lane] = min(least[lane], norms[k] - two * row[k])
        for k in range(whole, num_centers):
            least[k - whole] = min(least[k - whole], norms[k] - two * row[k])
        limit = _bound(least, count)
        if distances[b, count - 1] < np.inf:
            limit = min(limit, np.float32(distances[b, count - 1] - _square(rows, b)))
        limit += reach[b]
        for lane in range(LANES):
            if least[lane] <= limit:
                for n in range(lane, num_centers, LANES):
                    if norms[n] - two * row[n] <= limit and not _holds(places, b, numbers[n]):
                        k = numbers[n]
                        if count == 1:
                            distance = _distance(rows, b, centers, k)
                        else:
                            distance = np.float64(_short_distance(rows, b, centers, k))
                        _insert(places, distances, b, k, distance)
        _refine(rows, b, places, distances, centers)


@_compile
def _bound(least, count):  # type: ignore[no-untyped-def]
    """Return a value that at least `count` of the lanes do not exceed, and few more."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for lane in range(LANES):
        low = min(low, least[lane])
        if least[lane] < np.inf:
            high = max(high, least[lane])
    for _ in range(HALVINGS if count > 1 else 0):
        middle = low + np.float32(0.5) * (high - low)
        below = 0
        for lane in range(LANES):
            below += least[lane] <= middle
        if below < count:
            low = middle
        else:
            high = middle
    return high if count > 1 else low


@_compile
def _holds(places, b, k):  # type: ignore[no-untyped-def]
    found = False
    for at in range(places.shape[1]):
        found |= places[b, at] == k
    return found


# The helpers take arrays and a row of them: a view in an inner loop costs more than what it holds.


@_compile
def _square(rows, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(rows.shape[1]):
        total += np.float64(rows[b, d]) * np.float64(rows[b, d])
    return total


@_compile
def _distance(rows, b, centers, k):  # type: ignore[no-untyped-def]
    distance = 0.0
    for d in range(rows.shape[1]):
        gap = np.float64(rows[b, d]) - np.float64(centers[k, d])
        distance += gap * gap
    return distance


@_compile
def _short_distance(rows, b, centers, k):  # type: ignore[no-untyped-def]
    distance = np.float32(0)
    for d in range(rows.shape[1]):
        gap = rows[b, d] - centers[k, d]
        distance += gap * gap
    return distance


@_compile
def _refine(rows, b, places, distances, centers):  # type: ignore[no-untyped-def]
    """Put the nearest of C places first, by distances in float64; the others stay in order."""
    limit = distances[b, 0] * ALIKE
    best, shortest = 0, np.inf
    for at in range(places.shape[1]):
        if distances[b, at] > limit:
            break
        k = places[b, at]
        distance = _distance(rows, b, centers, k)
        if distance < shortest or (distance == shortest and k < places[b, best]):
            best, shortest = at, distance
    first = places[b, best]
    for at in range(best, 0, -1):
        places[b, at], distances[b, at] = places[b, at - 1], distances[b, at - 1]
    places[b, 0], distances[b, 0] = first, shortest


@_compile
def _insert(places, distances, b, k, distance):  # type: ignore[no-untyped-def]
    """Put a center among those kept, by distance and then by number, if it is near enough."""
    count = places.shape[1]
    at = count
    while at > 0 and (
        distance < distances[b, at - 1]
        or (distance == distances[b, at - 1] and k < places[b, at - 1])
    ):
        at -= 1
        if at + 1 < count:
            places[b, at + 1], distances[b, at + 1] = places[b, at], distances[b, at]
    if at < count:
        places[b, at], distances[b, at] = k, distance


@_compile
def measure(rows, places, distances, centers):  # type: ignore[no-untyped-def]
    """Fill distances [B, C] of the centers in places [B, C], in order, as `nearest` does."""
    old = np.empty_like(places[0])
    for b in range(len(rows)):
        old[:] = places[b]
        distances[b] = np.inf
        for k in old:
            distance = np.float64(_short_distance(rows, b, centers, k))
            _insert(places, distances, b, k, distance)
        _refine(rows, b, places, distances, centers)


@_compile
def nearest_listed(rows, lists, labels, centers, count):  # type: ignore[no-untyped-def]
    """Move labels [B] to the nearest of the first centers of lists [B, C], where one is nearer."""
    for b in range(len(rows)):
        shortest = np.float32(np.inf)
        best = labels[b]
        for place in range(-1, count):
            k = labels[b] if place < 0 else lists[b, place]
            if place >= 0 and k == labels[b]:
                continue
            distance = _short_distance(rows, b, centers, k)
            if distance < shortest:
                best, shortest = k, distance
        labels[b] = best


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


@_compile
def move_columns(columns, sums, rows, moved, before, after):  # type: ignore[no-untyped-def]
    """Take some columns of rows[moved] from the sums [K, D] of one cluster to those of another."""
    first, stop = columns[0], columns[-1] + 1
    for i in range(len(moved)):
        row, old, new = rows[moved[i]], sums[before[i]], sums[after[i]]
        for d in range(first, stop):
            old[d] -= row[d]
            new[d] += row[d]
