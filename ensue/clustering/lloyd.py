"""Passes over all rows that lower the sum of squared distances: Lloyd's (1982), and what helps it.

For many clusters, cheap steps follow each pass: clusters are exchanged (see `exchange.py`), then
rows move among the few centers that were nearest to them in the pass, and centers to their means,
a few times over. That finds most of what as many whole passes would.
Shapes: n rows, K clusters, D width, C nearest centers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensue.clustering.assign import Vectors, cluster_sums, move_rows_, reassign
from ensue.clustering.exchange import exchange_
from ensue.clustering.nearest import Nearest, find, find_again

NEAREST = 16  # centers that are known of each row after a pass
STEPS, NEAREST_OF_STEPS = 4, 8  # after each pass, and the centers of each row that they look at

Found = tuple[Vectors, NDArray[np.int64], NDArray[np.float64], list[float]]


def lloyd(
    rows: Vectors,
    centers: Vectors,
    *,
    passes: int,
    tolerance: float,
    is_many: bool,
    spherical: bool,
) -> Found:
    """Return centers, labels, squared distances and their sum before each pass and at the end.

    Args:
        passes: at most; one more tells the labels of the last centers.
        tolerance: stop when a pass lowers the sum by less than this share.
        is_many: whether passes are followed by exchanges and steps; needs 2 clusters.
        spherical: centers have length 1.
    """
    count = min(NEAREST, len(centers)) if is_many else 1
    found = find(rows, centers, count)
    history = [found.inertia]
    is_exchanging = is_many
    for _ in range(passes):
        moved = _move(rows, centers, found, is_exchanging, spherical)
        after = _again(rows, found, centers, moved)
        if is_exchanging and after.inertia > found.inertia:
            is_exchanging = False  # exchanges stood in each other's way
            moved = _move(rows, centers, found, is_exchanging, spherical)
            after = _again(rows, found, centers, moved)
        is_same = np.array_equal(after.places[:, 0], found.places[:, 0])
        centers, found = moved, after
        history.append(found.inertia)
        if is_same or history[-2] - history[-1] <= tolerance * history[-2]:
            break
    return centers, found.places[:, 0].astype(np.int64), found.distances[:, 0].copy(), history


def settle(rows: Vectors, centers: Vectors, *, passes: int, spherical: bool) -> Vectors:
    """Return centers after some passes over a sample of the rows, with what follows each."""
    for _ in range(passes):
        found = find(rows, centers, min(NEAREST_OF_STEPS, len(centers)))
        centers = _move(rows, centers, found, True, spherical)
    return centers


def _again(rows: Vectors, found: Nearest, before: Vectors, centers: Vectors) -> Nearest:
    if found.places.shape[1] > 1:
        return find_again(rows, found, before, centers)
    return find(rows, centers, 1)


def to_sphere_(centers: Vectors) -> None:
    """Give centers length 1; one of zeros stays."""
    lengths = np.linalg.norm(centers, axis=1, keepdims=True)
    centers /= np.where(lengths > 0, lengths, 1)


def _move(
    rows: Vectors,
    centers: Vectors,
    found: Nearest,
    is_exchanging: bool,
    spherical: bool,
) -> Vectors:
    """Return the means of clusters after all that follows a pass."""
    lists, distances = found.places, found.distances
    labels = lists[:, 0].astype(np.int64)
    sums, counts = cluster_sums(rows, labels, len(centers))
    if is_exchanging:
        after = labels.copy()
        extra = distances[:, 1] - distances[:, 0]
        exchange_(after, rows, lists[:, 1], extra, sums, spherical=spherical)
        move_rows_(sums, counts, rows, labels, after)
        labels = after
    centers = _means(sums, counts, centers, spherical)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-distances[:, 0], kind="stable")[: len(empty)]
        farthest = farthest[distances[farthest, 0] > 0]  # all others lie on a center already
        centers[empty[: len(farthest)]] = rows[farthest]
    for _ in range(STEPS if lists.shape[1] > 1 else 0):
        after = reassign(rows, lists, labels, centers, NEAREST_OF_STEPS)
        if np.array_equal(after, labels):
            break
        move_rows_(sums, counts, rows, labels, after)
        labels = after
        centers = _means(sums, counts, centers, spherical)
    return centers


def _means(
    sums: NDArray[np.float64], counts: NDArray[np.int64], centers: Vectors, spherical: bool
) -> Vectors:
    """Return the mean of each cluster; the center of an empty one stays."""
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    means[counts == 0] = centers[counts == 0]
    if spherical:
        to_sphere_(means)
    return means
