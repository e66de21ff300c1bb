"""Rows that were read from a growing table since its last step, and the gradient they got.

Shapes: R rows, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ensue.nn.row_sums import row_sums


class Part(NamedTuple):
    """What a batch sees of a table.

    table: [R, D], its distinct rows, a leaf of the graph in training. codes: the ids as its rows.
    """

    table: Tensor
    codes: Tensor


class ReadRows:
    """Parts of a table, each a leaf of the graph: vectors [R, D], or numbers [R]."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, rows: Tensor, part: Tensor) -> None:
        """Remember a part until the next step.

        Args:
            rows: [R], which rows it holds, each once; 0 is that of all ids without one.
        """
        self._parts.append((rows, part.requires_grad_()))

    def merge(self) -> list[Tensor]:
        """Return what has all gradients in its `grad`, each row once; nothing without any.

        Rows that several parts hold get the sum of their gradients, row 0 gets none.
        """
        parts = [(rows, part) for rows, part in self._parts if part.grad is not None]
        if len(parts) > 1:
            grads = [part.grad for _, part in parts if part.grad is not None]
            rows, sums = row_sums(torch.cat([rows for rows, _ in parts]), torch.cat(grads))
            merged = sums.detach()
            merged.grad = sums
            parts = [(rows, merged)]
        for rows, part in parts:
            assert part.grad is not None
            part.grad[rows == 0] = 0
        self._parts = parts
        return [part for _, part in parts]

    def take(self) -> tuple[Tensor, Tensor] | None:
        """Return distinct rows [R] and the gradient of each, and forget all; None without any."""
        self.merge()
        parts, self._parts = self._parts, []
        for rows, part in parts:
            assert part.grad is not None
            return rows, part.grad
        return None
