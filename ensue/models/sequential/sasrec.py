"""SASRec: the next item by causal self-attention over the history.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv:1808.09781.
Departures: by default attention knows distances (Su et al., 2021, arXiv:2104.09864), not places;
learned places are counted from the first event read, so that every prefix of a history is encoded
as it would be alone; normalization before each part, keys and values included, as in later
programs; the default loss is the softmax over the whole catalogue (Klenitskiy and Vasilev, RecSys
2023, arXiv:2309.07602), the paper's own is loss="bce" with num_negatives=1.
Shapes: B batch, T positions, D width, I items. Item 0 is padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ensue.models.sequence import SequenceConfig, SequenceModel
from ensue.nn.dropout import Dropout
from ensue.nn.embedding import gather_rows
from ensue.nn.growing_items import GrowingItems
from ensue.nn.transformer import CausalTransformer, KeyValues


class SASRecConfig(SequenceConfig):
    """Settings of SASRec.

    hidden_dim: width of the feed-forward networks; None is `dim`, as in the paper.
    positions: "rotary" lets attention know how far apart two events are, and nothing else;
        "learned" adds a vector for each place, as in the paper.
    """

    dim: int = Field(default=64, ge=1)
    num_blocks: int = Field(default=2, ge=1)
    num_heads: int = Field(default=1, ge=1)
    hidden_dim: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=0.99)
    positions: Literal["rotary", "learned"] = "rotary"

    @model_validator(mode="after")
    def _heads_divide(self) -> SASRecConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, {self.num_heads}")
        return self


@dataclass(frozen=True)
class SASRecState:
    """The events read so far, at most `max_len`, and what the blocks remember of them."""

    items: tuple[int, ...]
    past: list[KeyValues]


class SASRec(SequenceModel):
    """Item vectors and position vectors, a causal transformer, and the item vectors again."""

    Config = SASRecConfig

    def __init__(self, config: SASRecConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        dim = config.dim
        self.max_len = config.max_len
        if config.growth is not None:
            self.item_embedding = GrowingItems(num_items, dim, config.growth, std=INIT_STD)
        else:
            self.item_embedding = nn.Parameter(torch.randn(num_items + 1, dim) * INIT_STD)
            self.item_embedding.data[0] = 0
        if config.positions == "learned":
            self.position_embedding = nn.Parameter(torch.randn(config.max_len, dim) * INIT_STD)
        self.dropout = Dropout(config.dropout)
        self.transformer = CausalTransformer(
            dim,
            num_heads=config.num_heads,
            num_blocks=config.num_blocks,
            hidden_dim=config.hidden_dim or dim,
            dropout=config.dropout,
            rotary=config.positions == "rotary",
        )

    @property
    def scored_tokens(self) -> int:
        """Fewer on a CPU: what a block makes of them then stays in its cache."""
        is_on_cpu = self.item_embedding.device.type == "cpu"
        return super().scored_tokens // 4 if is_on_cpu else super().scored_tokens

    def encode(self, items: Tensor) -> Tensor:
        """Return the query behind every event [B, T, D] of items [B, T], T <= max_len."""
        return self.transformer(self._inputs(items, first=0))

    def start(self) -> SASRecState:
        """Return the state of a history without events."""
        return SASRecState((), self.transformer.no_past(1))

    def advance(self, state: SASRecState, item: int) -> tuple[Tensor, SASRecState]:
        """Return the query [D] behind the next event, and the state that has read it.

        Once `max_len` events are read, each new one moves all positions by one, and the events
        are read again.
        """
        items = (*state.items, item)[-self.config.max_len :]
        if len(items) == len(state.items):
            state = self.start()
            for earlier in items[:-1]:
                _, state = self.advance(state, earlier)
        position = len(items) - 1
        vector = self._inputs(torch.tensor([[item]], device=self.log_popularity.device), position)
        encoded, past = self.transformer.step(vector, state.past)
        return encoded[0, 0], SASRecState(items, past)

    def _inputs(self, items: Tensor, first: int) -> Tensor:
        """Return what the first block reads [B, T, D]; positions begin at `first`."""
        vectors = gather_rows(self.item_embedding, items, padding_idx=0) * self.config.dim**0.5
        if self.config.positions == "learned":
            vectors = vectors + self.position_embedding[first : first + items.shape[1]]
        return self.dropout(vectors)


INIT_STD = 0.02  # of both tables, as usual for transformers
