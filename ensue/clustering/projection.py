"""What is done to vectors before they are clustered: principal components, whitening, unit length.

Departure from Zheltonozhskii et al., arXiv:2008.10312: the components are those of the exact
covariance, gathered block by block in float64, and not of an incremental decomposition. All of them
are a rotation, which changes no distance: they are computed only where some are left out, or
whitened.
Shapes: n rows, F features, D components.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.errors import UsageError

BLOCK_ROWS = 8192
RANK = 1e-10  # of the largest variance; a component below it is none


@dataclass(frozen=True)
class Projection:
    """x -> (x - mean) basis, and then to length 1 where it is spherical.

    mean: [F]. basis: [F, D]; None leaves the features as they are.
    explained: the share of the variance that lies along the components kept.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32] | None
    is_spherical: bool
    explained: float

    @property
    def dim(self) -> int:
        """D, or F where the features are left as they are."""
        return len(self.mean) if self.basis is None else self.basis.shape[1]

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows [n, F] as [n, D].

        Raises:
            UsageError: they have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise UsageError(
                f"vectors must be [n, {len(self.mean)}], as those the projection was fitted on; "
                f"got {list(rows.shape)}."
            )
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        for part, block in _blocks(rows):
            centered = block - self.mean
            if self.basis is not None:
                centered = (torch.from_numpy(centered) @ torch.from_numpy(self.basis)).numpy()
            if self.is_spherical:
                lengths = np.linalg.norm(centered, axis=1, keepdims=True)
                centered /= np.where(lengths > 0, lengths, 1)
            result[part] = centered
        return result


@dataclass(frozen=True)
class Components:
    """All principal components of rows: mean [F], axes [F, F] and variances [F], largest first."""

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]

    @property
    def rank(self) -> int:
        """The number of components along which the rows differ at all."""
        return int((self.variances > RANK * self.variances.max(initial=0)).sum())

    def projection(
        self, dim: int | None = None, *, whiten: bool = False, spherical: bool = False
    ) -> Projection:
        """Return the projection onto the first components.

        Args:
            dim: D; None takes all.
            whiten: divide each component by its standard deviation; one without any is left out.

        Raises:
            UsageError: D is not in 1..F, or the rows do not differ along so many components.
        """
        width, total = len(self.mean), self.variances.sum()
        if dim is not None and not 1 <= dim <= width:
            raise UsageError(f"the components to keep must be 1 to {width}; got {dim}.")
        mean = self.mean.astype(np.float32)
        if not whiten and dim in (None, width):
            return Projection(mean, None, spherical, 1.0)
        if whiten:
            if (dim or 1) > self.rank:
                raise UsageError(
                    f"whitening needs components along which the vectors differ, {self.rank} here; "
                    f"got dim={dim}."
                )
            dim = dim or self.rank
        basis = self.axes[:, :dim]
        if whiten:
            basis = basis / np.sqrt(self.variances[:dim])
        explained = float(self.variances[:dim].sum() / total) if total > 0 else 1.0
        return Projection(mean, np.ascontiguousarray(basis, np.float32), spherical, explained)


def fit_mean(rows: NDArray[np.float32], *, spherical: bool = False) -> Projection:
    """Return the projection that subtracts the mean of rows [n, F], and no more."""
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Projection(mean, None, spherical, 1.0)


def fit_components(rows: NDArray[np.float32]) -> Components:
    """Return the principal components of rows [n, F], n >= 1; the largest part of each is above 0.

    The variance is over n, not n - 1.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for _, block in _blocks(rows):
        centered = torch.from_numpy(block - mean)
        covariance.addmm_(centered.T, centered)
    variances, axes = torch.linalg.eigh(covariance / len(rows))
    variances, axes = variances.flip(0).clamp_(min=0), axes.flip(1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    return Components(mean, axes.numpy(), variances.numpy())


def _blocks(rows: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    for first in range(0, len(rows), BLOCK_ROWS):
        part = slice(first, min(first + BLOCK_ROWS, len(rows)))
        yield part, rows[part]
