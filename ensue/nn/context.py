"""Context columns as features: categories embedded, numbers standardized.

A missing or unknown category has a vector of its own, zero until it is trained. A missing number is
taken for the mean; no feature says that it is missing.
Shapes: C columns, F features, K numeric columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ContextFeatures(nn.Module):
    """Features of columns: `dim` of each categorical one, then one of each numeric one.

    Without columns it has no features and nothing to learn.

    Args:
        num_values: of each column; codes of a category are 0 (missing), 1, ..., its number of
            values. None is a numeric column.
    """

    first_rows: Tensor
    missing: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, num_values: Sequence[int | None], *, dim: int) -> None:
        super().__init__()
        self._categorical = [n for n, size in enumerate(num_values) if size is not None]
        self.numeric = [n for n, size in enumerate(num_values) if size is None]
        self.width = dim * len(self._categorical) + len(self.numeric)
        sizes = torch.tensor([size + 1 for size in num_values if size is not None]).long()
        # One table for all columns: the codes of a column begin at its first row.
        first_rows = sizes.cumsum(0) - sizes
        self.register_buffer("first_rows", first_rows, persistent=False)
        missing = torch.tensor([0.0 if n is not None else torch.nan for n in num_values]).double()
        self.register_buffer("missing", missing, persistent=False)
        self.table: nn.Parameter | None = None
        if self._categorical:
            table = torch.randn(int(sizes.sum()), dim) / dim**0.5
            table[first_rows] = 0
            self.table = nn.Parameter(table)
        if self.numeric:  # float64: moments of the day in seconds since 1970 must not be rounded
            self.register_buffer("mean", torch.zeros(len(self.numeric)).double())
            self.register_buffer("deviation", torch.ones(len(self.numeric)).double())

    def standardize_(self, moments: Sequence[tuple[float, float]]) -> None:
        """Take note of the mean and the standard deviation of each numeric column."""
        if self.numeric:
            mean, deviation = torch.tensor(moments, dtype=torch.float64).T
            self.mean.copy_(mean)
            self.deviation.copy_(deviation)

    def forward(self, values: Tensor) -> Tensor:
        """Return features [..., F] of values [..., C] float64, codes and numbers."""
        parts = []
        if self.table is not None:
            rows = values[..., self._categorical].long() + self.first_rows
            parts.append(F.embedding(rows, self.table).flatten(-2))
        if self.numeric:
            numbers = (values[..., self.numeric] - self.mean) / self.deviation
            parts.append(numbers.where(numbers.isfinite(), 0.0))
        return torch.cat(parts, dim=-1) if parts else values
