"""The nearest centers of every row, and sums of clusters, without a matrix of rows by centers.

Squared distances are ||x||^2 - 2 x . c + ||c||^2: the products of a block of rows are a matrix
product into one reused buffer, and what is least in it is looked up while it is in cache. ||x||^2
changes no order and is left out.
Shapes: n rows, K centers, D width, C centers that are kept of each row.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.clustering.kernels import move_columns, nearest, nearest_listed, sum_clusters
from ensue.nn.stretches import in_stretches

BLOCK_BYTES = 16 << 20  # of products
LEAST_ROWS, MOST_ROWS = 64, 4096
LEAST_STRETCH = 32  # rows of a thread
LEAST_CLUSTERS, LEAST_COLUMNS = 16, 16
ROUNDING = 32 * float(np.finfo(np.float32).eps)  # of a product, in lengths of its factors

Vectors = NDArray[np.float32]


def assign(rows: Vectors, centers: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest center of each row [n], the first of equal ones, and squared distances.

    Args:
        rows, centers: [n, D] and [K, D], finite and contiguous.
    """
    labels, distances = assign_few(rows, centers, 1)
    return labels[:, 0].astype(np.int64), distances[:, 0]


def assign_few(
    rows: Vectors, centers: Vectors, count: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the C = count <= K nearest centers of each row [n, C], in order, as `assign` does."""
    places = np.full((len(rows), count), -1, dtype=np.int32)
    distances = np.full((len(rows), count), np.inf)
    offer_(places, distances, rows, centers, np.arange(len(centers), dtype=np.int32))
    return places, distances


def offer_(
    places: NDArray[np.int32],
    distances: NDArray[np.float64],
    rows: Vectors,
    centers: Vectors,
    numbers: NDArray[np.int32],
) -> None:
    """Put into places [n, C] of rows those of centers[numbers] that are nearer.

    Args:
        distances: [n, C], squared, of the places, in order; infinite where there is none yet.
    """
    right = centers if len(numbers) == len(centers) else centers[numbers]
    norms = np.einsum("kd,kd->k", right, right, dtype=np.float64)
    longest = float(np.sqrt(norms.max(initial=0)))
    norms = norms.astype(np.float32)
    size = min(max(BLOCK_BYTES // (4 * len(right)), LEAST_ROWS), MOST_ROWS, max(len(rows), 1))
    buffer = torch.empty(size, len(right))
    for first in range(0, len(rows), size):
        block = rows[first : first + size]
        products = buffer[: len(block)]
        torch.mm(torch.from_numpy(block), torch.from_numpy(right).T, out=products)
        lengths = np.sqrt(np.einsum("bd,bd->b", block, block))
        reach = (2 * ROUNDING * np.square(lengths + longest)).astype(np.float32)
        part = slice(first, first + size)
        in_stretches(
            nearest,
            [products.numpy(), block, reach, places[part], distances[part]],
            (centers, numbers, norms),
            least=LEAST_STRETCH,
        )


def reassign(
    rows: Vectors,
    lists: NDArray[np.int32],
    labels: NDArray[np.int64],
    centers: Vectors,
    count: int,
) -> NDArray[np.int64]:
    """Return the nearest of the first centers of its list [n, C] for each row, or its label [n]."""
    found = labels.copy()
    others = (centers, min(count, lists.shape[1]))
    in_stretches(nearest_listed, [rows, lists, found], others, least=LEAST_STRETCH)
    return found


def cluster_sums(
    rows: Vectors, labels: NDArray[np.int64], num_clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum of the rows of each cluster [K, D], and their number [K].

    The order of the additions, and so the result, does not depend on the number of threads.
    """
    order, starts, ends = by_cluster(labels, num_clusters)
    sums = np.empty((num_clusters, rows.shape[1]))
    in_stretches(sum_clusters, [starts, ends, sums], (order, rows), least=LEAST_CLUSTERS)
    return sums, ends - starts


def move_rows_(
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    rows: Vectors,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
) -> None:
    """Change sums [K, D] and counts [K] of rows to those of other labels [n]."""
    moved = np.flatnonzero(before != after)
    old, new = before[moved], after[moved]
    columns = np.arange(rows.shape[1])
    in_stretches(move_columns, [columns], (sums, rows, moved, old, new), least=LEAST_COLUMNS)
    counts += np.bincount(new, minlength=len(counts)) - np.bincount(old, minlength=len(counts))


def by_cluster(
    labels: NDArray[np.int64], num_clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return rows in the order of their clusters [n], and where each begins and ends in it [K]."""
    counts = np.bincount(labels, minlength=num_clusters)
    ends = np.cumsum(counts)
    return np.argsort(labels, kind="stable"), ends - counts, ends
