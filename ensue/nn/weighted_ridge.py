"""Many ridge regressions on the same vectors, each with more weight on a few of its own.

Row b solves M x = r for

    M = V'V + ridge * identity + (weight - 1) * sum of v v' over its own vectors v

as alternating least squares on clicks do (Hu, Koren and Volinsky, ICDM 2008). With V'V + ridge *
identity = L L' and z = L^-1 v, the part that rows share is the identity; what is left to factor is
identity + (weight - 1) Z'Z [D, D], or identity + (weight - 1) Z Z' [n, n] where a row has n < D
vectors Z [n, D] of its own. Since Z'Z is at most the identity, eigenvalues lie between 1 and
`weight`, and float32 will do whatever the ridge. A solution y in these coordinates has the product
z'y with the vector z, the same as x with v, so nothing need be turned back.
Shapes: N vectors, D width, B rows, S vectors of all rows, n of one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK_NUMBERS = 1 << 20  # in flight while solving: a few megabytes
_GRAM_ROWS = 1 << 14


class Whitened(NamedTuple):
    """Vectors v [N, D] as z = L^-1 v, and the inverse of L' [D, D]: rows Z = V @ root."""

    rows: Tensor
    root: Tensor


def whiten(vectors: Tensor, ridge: float) -> Whitened:
    """Return the vectors [N, D] where V'V + ridge * identity is the identity."""
    dim = vectors.shape[1]
    gram = torch.eye(dim, dtype=torch.float64, device=vectors.device) * ridge
    for first in range(0, len(vectors), _GRAM_ROWS):
        wide = vectors[first : first + _GRAM_ROWS].double()
        gram.addmm_(wide.T, wide)
    lower = torch.linalg.cholesky(gram)
    identity = torch.eye(dim, dtype=torch.float64, device=vectors.device)
    root = torch.linalg.solve_triangular(lower, identity, upper=False).T.to(vectors.dtype)
    return Whitened(vectors @ root, root)


def solve_rows(
    table: Tensor, offsets: Tensor, members: Tensor, weight: float, right: Tensor | None = None
) -> Tensor:
    """Return the solution of each row [B, D], in the coordinates of the table.

    Args:
        table: [N, D], rows of `whiten`.
        offsets: [B + 1]; row b has the vectors members[offsets[b]:offsets[b + 1]], distinct.
        members: [S], places in the table.
        weight: of a row's own vectors, at least 1; the others have 1.
        right: [B, D], right-hand sides in the coordinates of the table; None is the sum of the
            row's own vectors times the weight: a regression on 1 for these and 0 for the others.
    """
    dim = table.shape[1]
    out = table.new_zeros(len(offsets) - 1, dim) if right is None else right.clone()
    lengths = offsets.diff()
    order = lengths.argsort(descending=True, stable=True)
    for first, last, width in _blocks(lengths[order].cpu().numpy(), dim):
        rows = order[first:last]
        sides = None if right is None else right[rows]
        solve = _solve_small if width < dim else _solve_large
        out[rows] = solve(_Own(table, offsets, members, rows), width, weight, sides)
    return out


class _Own:
    """Vectors of some rows, the same number for each, zeros where there are fewer."""

    def __init__(self, table: Tensor, offsets: Tensor, members: Tensor, rows: Tensor) -> None:
        self.table, self.members = table, members
        self.starts, self.ends = offsets[rows, None], offsets[rows + 1, None]

    def __len__(self) -> int:
        return len(self.starts)

    def vectors(self, first: int, last: int) -> Tensor:
        """Return those in places first..last - 1 of each row [B, last - first, D]."""
        places = self.starts + torch.arange(first, last, device=self.starts.device)
        found = self.table[self.members[places.clamp(max=len(self.members) - 1)]]
        return found.masked_fill_((places >= self.ends)[..., None], 0.0)


def _blocks(lengths: NDArray[np.int64], dim: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last, most vectors) of rows to be solved together, given descending lengths.

    Rows without a vector are left out. Which of the two systems a row solves depends on its own
    length alone, so that it gets the same solution in any company.
    """
    num_large, num_some = int((lengths >= dim).sum()), int((lengths > 0).sum())
    first = 0
    while first < num_some:
        width = int(lengths[first])
        size = min(width, dim)
        numbers = size * size + min(width * dim, _BLOCK_NUMBERS)
        end = num_large if first < num_large else num_some
        last = min(first + max(1, _BLOCK_NUMBERS // numbers), end)
        yield first, last, width
        first = last


def _solve_small(own: _Own, width: int, weight: float, right: Tensor | None) -> Tensor:
    """Return the solutions [B, D] of rows with fewer vectors than D, by the systems [n, n]."""
    vectors = own.vectors(0, width)
    gram = torch.bmm(vectors, vectors.mT).mul_(weight - 1.0)
    gram.diagonal(dim1=1, dim2=2).add_(1.0)
    lower = torch.linalg.cholesky(gram)
    if right is None:
        ones = vectors.new_full((len(own), width, 1), weight)
        return torch.bmm(vectors.mT, torch.cholesky_solve(ones, lower)).squeeze(2)
    inner = torch.cholesky_solve(torch.bmm(vectors, right[:, :, None]), lower)
    return right - (weight - 1.0) * torch.bmm(vectors.mT, inner).squeeze(2)


def _solve_large(own: _Own, width: int, weight: float, right: Tensor | None) -> Tensor:
    """Return the solutions [B, D] of rows with D vectors or more, by the systems [D, D]."""
    dim = own.table.shape[1]
    gram = own.table.new_zeros(len(own), dim, dim)
    total = own.table.new_zeros(len(own), dim)
    step = max(1, _BLOCK_NUMBERS // dim)
    for first in range(0, width, step):
        vectors = own.vectors(first, min(first + step, width))
        gram.baddbmm_(vectors.mT, vectors, alpha=weight - 1.0)
        total += vectors.sum(dim=1)
    gram.diagonal(dim1=1, dim2=2).add_(1.0)
    sides = total * weight if right is None else right
    return torch.cholesky_solve(sides[:, :, None], torch.linalg.cholesky(gram)).squeeze(2)
