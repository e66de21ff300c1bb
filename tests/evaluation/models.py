"""Scorers with known scores."""

from __future__ import annotations

import torch
from torch import Tensor

from ensue.data.histories import HistoryBatch


class TableModel:
    """Scores read from a table [U + 1, I + 1] by user; row and column 0 are unused."""

    max_len: int | None = None

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.num_items = table.shape[1] - 1
        self.batch_sizes: set[int] = set()

    def score(self, batch: HistoryBatch) -> Tensor:
        self.batch_sizes.add(len(batch))
        return self.table[batch.users]


class LastItemModel:
    """Scores item i with -|i - last item|: depends on the history alone, full of ties."""

    max_len: int | None = 1

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def score(self, batch: HistoryBatch) -> Tensor:
        last = batch.padded(1)
        return -(torch.arange(self.num_items + 1) - last).abs().float()
