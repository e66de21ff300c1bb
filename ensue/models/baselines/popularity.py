"""Popularity: every user gets the items with the most interactions.

The baseline that every other model has to beat; nothing in it is personal.
Shapes: B batch, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ensue.config import Config
from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import FittedModel


class PopularityConfig(Config):
    """Popularity has no settings."""


class Popularity(FittedModel):
    """Scores are counts; items with equal counts stay tied."""

    Config = PopularityConfig
    max_len = 0
    counts: Tensor

    def __init__(self, config: PopularityConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.register_buffer("counts", torch.zeros(num_items + 1))

    def fit_(self, histories: Histories) -> None:
        """Count how often each item occurs."""
        self.counts = torch.from_numpy(histories.item_counts(self.num_items)).float()

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return the counts, once for each history [B, I + 1]."""
        return self.counts.repeat(len(batch), 1)
