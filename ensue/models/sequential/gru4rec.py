"""GRU4Rec: the next item by a gated recurrent network over the history.

Hidasi, Karatzoglou, Baltrunas and Tikk, "Session-based Recommendations with Recurrent Neural
Networks", ICLR 2016, arXiv:1511.06939.
Departures: item vectors are learned in place of the paper's one-of-N input; they also are the
output table, behind a linear layer where `hidden_dim` is another width than `dim`; the default loss
is the softmax over the whole catalogue at every event, and a history is read from its first event
on in place of session-parallel batches that cut gradients at their borders.
Shapes: B batch, T positions, D width, G hidden width, I items. Item 0 is padding.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from ensue.models.sequence import SequenceConfig, SequenceModel
from ensue.nn.dropout import Dropout
from ensue.nn.embedding import gather_rows
from ensue.nn.growing_items import GrowingItems


class GRU4RecConfig(SequenceConfig):
    """Settings of GRU4Rec.

    hidden_dim: width of the recurrent layers; None is `dim`.
    dropout: of the item vectors, and between layers.
    """

    dim: int = Field(default=64, ge=1)
    hidden_dim: int | None = Field(default=None, ge=1)
    num_layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=0.99)


class GRU4Rec(SequenceModel):
    """Item vectors, recurrent layers, and the item vectors again; the whole history is read."""

    Config = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        dim, hidden_dim = config.dim, config.hidden_dim or config.dim
        if config.growth is not None:
            self.item_embedding = GrowingItems(num_items, dim, config.growth, std=dim**-0.5)
        else:
            self.item_embedding = nn.Parameter(torch.randn(num_items + 1, dim) / dim**0.5)
            self.item_embedding.data[0] = 0
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(
            dim,
            hidden_dim,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )
        self.output = nn.Identity() if hidden_dim == dim else nn.Linear(hidden_dim, dim)

    def encode(self, items: Tensor) -> Tensor:
        """Return the query behind every event [B, T, D] of items [B, T]."""
        hidden, _ = self.gru(self._inputs(items))
        return self.output(hidden)

    def start(self) -> Tensor:
        """Return the hidden vectors [layers, 1, G] of a history without events: zero."""
        return self.log_popularity.new_zeros(self.gru.num_layers, 1, self.gru.hidden_size)

    def advance(self, state: Tensor, item: int) -> tuple[Tensor, Tensor]:
        """Return the query [D] behind the next event, and the hidden vectors that have read it."""
        items = torch.tensor([[item]], device=state.device)
        hidden, state = self.gru(self._inputs(items), state)
        return self.output(hidden)[0, 0], state

    def _inputs(self, items: Tensor) -> Tensor:
        return self.dropout(gather_rows(self.item_embedding, items, padding_idx=0))
