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

from ensue.data.cooccurrence import Incidence
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
    incidence = Incidence.from_histories(histories, num_items)
    basis = torch.randn(num_items + 1, width, generator=generator)
    basis[0] = 0.0
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(_gram_times(incidence, basis)).Q
    inner = basis.T @ _gram_times(incidence, basis)
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


def _gram_times(incidence: Incidence, matrix: Tensor) -> Tensor:
    """Return A^T A times `matrix` [I + 1, K], where A is the binary matrix [U + 1, I + 1]."""
    product = torch.zeros_like(matrix)
    offsets = incidence.user_offsets
    bounds = np.searchsorted(offsets, np.arange(0, max(int(offsets[-1]), 1), ROWS_AT_ONCE))
    for first, last in zip(bounds, [*bounds[1:], len(offsets) - 1], strict=True):
        items = torch.from_numpy(incidence.user_items[offsets[first] : offsets[last]])
        starts = torch.from_numpy(offsets[first : last + 1] - offsets[first])
        of_users = embedding_bag(items, matrix, starts[:-1].int(), mode="sum")
        owners = torch.repeat_interleave(torch.arange(last - first), starts.diff())
        product.index_add_(0, items, of_users[owners])
    return product
