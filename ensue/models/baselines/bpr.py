"""BPR-MF: a matrix factorization trained to rank a user's items above the others.

Rendle et al., UAI 2009, arXiv:1205.2618.
Departures: a user never seen in training gets the mean vector of the items of the history, scaled
to the mean length of a user vector; an empty history is ranked by item bias.
Shapes: B batch, D width, C candidates, S items in a batch of histories, I items, U users.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.histories import HistoryBatch
from ensue.models.base import Model
from ensue.nn.embedding import dot_rows, gather_rows


class BPRConfig(Config):
    """Settings of BPR-MF."""

    dim: int = Field(default=64, ge=1)


class BPR(Model):
    """User vectors, item vectors and item biases."""

    Config = BPRConfig

    def __init__(self, config: BPRConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.user_embedding = nn.Parameter(torch.randn(num_users, config.dim) * 0.1)
        self.item_embedding = nn.Parameter(torch.randn(num_items + 1, config.dim) * 0.1)
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1))

    def logits(self, users: Tensor, candidates: Tensor) -> Tensor:
        """Return logits [B, C] of candidate ids [B, C] for known users [B]."""
        queries = gather_rows(self.user_embedding, users - 1)
        products = dot_rows(queries, self.item_embedding, candidates)
        return products + gather_rows(self.item_bias, candidates)

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        queries, _ = self.queries(batch)
        return torch.addmm(self.item_bias, queries, self.item_embedding.T)

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return the user vectors [B, D], and the lengths [B] of the histories."""
        is_known = (batch.users > 0)[:, None]
        known = self.user_embedding[(batch.users - 1).clamp(min=0)]
        return torch.where(is_known, known, self._fold_in(batch)), batch.offsets.diff()

    def item_table(self) -> tuple[Tensor, Tensor]:
        """Return what queries are matched with: vectors [I + 1, D] and biases [I + 1]."""
        return self.item_embedding, self.item_bias

    def _fold_in(self, batch: HistoryBatch) -> Tensor:
        """Return a user vector [B, D] made from the items of each history; 0 for an empty one."""
        lengths = batch.offsets.diff()
        owners = torch.repeat_interleave(torch.arange(len(batch), device=lengths.device), lengths)
        sums = self.item_embedding.new_zeros(len(batch), self.config.dim)
        sums.index_add_(0, owners, self.item_embedding[batch.items] * (batch.items > 0)[:, None])
        return self.user_like(sums, self.mean_length())

    def mean_length(self) -> Tensor:
        """Return the mean length of a user vector."""
        return self.user_embedding.norm(dim=1).mean()

    @staticmethod
    def user_like(sums: Tensor, length: Tensor) -> Tensor:
        """Return the vectors [B, D] of users never seen, given the sums of their items [B, D].

        Args:
            length: of a user vector.
        """
        return nn.functional.normalize(sums, dim=1) * length
