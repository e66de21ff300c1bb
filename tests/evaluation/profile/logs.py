"""Histories and vectors with a known dependence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensue.data.histories import Histories

Floats = NDArray[np.float64]


def vectors_as_items(values: Floats) -> tuple[Histories, Floats]:
    """Return histories whose every interaction is an item of its own, and the items' vectors.

    Args:
        values: [n, T, D], the vector of each interaction; all histories have T items.
    """
    n, length, dim = values.shape
    ends = np.arange(n + 1) * length
    items = np.arange(1, n * length + 1, dtype=np.int32)
    histories = Histories(items, np.maximum(ends - length, 0), ends)
    return histories, np.vstack([np.zeros((1, dim)), values.reshape(-1, dim)])


def stationary(
    covariance: Sequence[float] | Floats,
    *,
    num_users: int,
    dim: int,
    rng: np.random.Generator,
    between: float = 0.0,
) -> Floats:
    """Return Gaussian vectors [n, T, D] with covariance[L] between times L steps apart.

    The dimensions are independent of each other; `between` is the variance of a vector that each
    user adds to all of theirs. T is the number of covariances given.
    """
    values = np.asarray(covariance, dtype=np.float64)
    distance = np.abs(np.subtract.outer(np.arange(len(values)), np.arange(len(values))))
    factor = np.linalg.cholesky(values[distance])
    noise = rng.standard_normal((num_users, dim, len(values)))
    own = rng.standard_normal((num_users, 1, dim)) * between**0.5
    return np.einsum("ts,nds->ntd", factor, noise) + own


def fractional(exponent: float, length: int) -> Floats:
    """Return a covariance that is L^-exponent from lag 1 on, and convex, so that it is one."""
    lags = np.arange(1, length)
    return np.append(1.5, lags**-exponent)
