"""The nearest center of every row, and sums of clusters, in passes that never hold rows by centers.

Squared distances are ||x||^2 - 2 x . c + ||c||^2: the products of a block of rows are a matrix
product into one reused buffer, and what is least in it is looked up while it is in cache. ||x||^2
changes no order and is left out.
Shapes: n rows, K centers, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.clustering.kernels import nearest, sum_clusters
from ensue.nn.stretches import in_stretches

BLOCK_BYTES = 4 << 20  # of products
LEAST_ROWS, MOST_ROWS = 64, 4096
LEAST_STRETCH = 32  # rows of a thread
LEAST_CLUSTERS = 16
ROUNDING = 32 * float(np.finfo(np.float32).eps)  # of a product, in lengths of its factors

Vectors = NDArray[np.float32]


def assign(rows: Vectors, centers: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest center of each row [n], the first of equal ones, and squared distances.

    Args:
        rows, centers: [n, D] and [K, D], finite and contiguous.
    """
    labels = np.empty(len(rows), dtype=np.int64)
    distances = np.empty(len(rows), dtype=np.float64)
    norms = np.einsum("kd,kd->k", centers, centers, dtype=np.float64)
    longest = float(np.sqrt(norms.max(initial=0)))
    norms = norms.astype(np.float32)
    size = min(max(BLOCK_BYTES // (4 * len(centers)), LEAST_ROWS), MOST_ROWS, max(len(rows), 1))
    buffer = torch.empty(size, len(centers))
    right = torch.from_numpy(centers).T
    for first in range(0, len(rows), size):
        block = rows[first : first + size]
        products = buffer[: len(block)]
        torch.mm(torch.from_numpy(block), right, out=products)
        lengths = np.sqrt(np.einsum("bd,bd->b", block, block))
        reach = (2 * ROUNDING * longest * (lengths + longest)).astype(np.float32)
        part = slice(first, first + size)
        in_stretches(
            nearest,
            [products.numpy(), block, reach, labels[part], distances[part]],
            (centers, norms),
            least=LEAST_STRETCH,
        )
    return labels, distances


def cluster_sums(
    rows: Vectors, labels: NDArray[np.int64], num_clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum of the rows of each cluster [K, D], and their number [K].

    The order of the additions, and so the result, does not depend on the number of threads.
    """
    counts = np.bincount(labels, minlength=num_clusters)
    ends = np.cumsum(counts)
    order = np.argsort(labels, kind="stable")
    sums = np.empty((num_clusters, rows.shape[1]))
    arrays = [ends - counts, ends, sums]
    in_stretches(sum_clusters, arrays, (order, rows), least=LEAST_CLUSTERS)
    return sums, counts
