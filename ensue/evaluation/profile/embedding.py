"""Item vectors out of a log that do not know the order of the interactions: a truncated SVD.

The matrix is binary: 1 where a user had an item. Its best approximation of rank D is P S Q^T; the
vector of an item is its row of Q S, scaled to unit length, so that the inner product of two items
is the cosine of their users, seen through D factors (Cremonesi et al., RecSys 2010, PureSVD). The
subspace is found by iterating a random one (Halko, Martinsson and Tropp, SIAM Review 2011), some
users at a time.

Shapes: U users, I items, D width, K = D + a few more columns that make the first D exact sooner.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from ensue.data.histories import Histories

ROWS_AT_ONCE = 1 << 18  # interactions multiplied at a time
OVERSAMPLING = 10
ITERATIONS = 6


def svd_vectors(
    histories: Histories, num_items: int, *, dim: int, generator: torch.Generator
) -> NDArray[np.float32]:
    """Return unit vectors [I + 1, D] of the items; 0 for items without users.

    D is less than `dim` where the matrix has not so many dimensions.
    """
    dim = min(dim, num_items, histories.num_users)
    width = min(dim + OVERSAMPLING, num_items)
    basis = torch.randn(num_items + 1, width, generator=generator)
    basis[0] = 0.0
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(_gram_times(histories, basis)).Q
    inner = basis.T @ _gram_times(histories, basis)
    eigenvalues, rotation = torch.linalg.eigh((inner + inner.T) / 2)
    best = eigenvalues.argsort(descending=True)[:dim]
    vectors = basis @ rotation[:, best] * eigenvalues[best].clamp(min=0.0).sqrt()
    return unit_rows(vectors.numpy())


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows at length 1; rows of zeros stay, up to rounding.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_zero = lengths <= 1e-6 * lengths.max(initial=0.0)
    return np.where(is_zero, 0.0, vectors / np.where(is_zero, 1.0, lengths)).astype(np.float32)


def _gram_times(histories: Histories, matrix: Tensor) -> Tensor:
    """Return A^T A times `matrix` [I + 1, K], where A is the binary matrix [U, I + 1]."""
    size = len(matrix)
    product = torch.zeros_like(matrix)
    for users in histories.user_blocks(ROWS_AT_ONCE):
        rows, offsets = histories.rows(users)
        owners = np.repeat(np.arange(len(users)), np.diff(offsets))
        pairs = np.unique(owners * size + histories.items[rows])
        owner, item = torch.from_numpy(pairs // size), torch.from_numpy(pairs % size)
        starts = torch.searchsorted(owner, torch.arange(len(users)))
        of_users = embedding_bag(item, matrix, starts, mode="sum")
        product.index_add_(0, item, of_users[owner])
    return product
