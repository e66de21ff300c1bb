"""What models of sequences share: one query for each event, matched with every item.

A model of this kind reads a history once and has a query behind every event: all are trained at the
same time, and a new event at serving time is one step from a kept state.
Shapes: B batch, T positions, D width of a query, I items. Sequences are padded with item 0 behind
their end; what a model gives at padded positions has no meaning.

A model that reads context takes two arguments more in `encode`, `encode_last` and `advance`: the
context of the events, [B, T, C] beside the items, and that of the request behind each event, [B, T,
C] or one [B, C]; C is the number of columns. None is missing in all columns. Query t depends on the
context of events 0..t and on that of its own request alone.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import ItemsConfig, Model
from ensue.nn.growing_items import all_rows

SCORED_TOKENS = 1 << 14  # positions, padded ones too, encoded at a time when scoring


class SequenceConfig(ItemsConfig):
    """Settings of the loss and of the histories, the same for every model of sequences.

    max_len: how many events are read in training, one target behind each.
    crop: what is read of a longer history: its last events, or a stretch drawn anew each epoch.
    loss: "softmax" over the whole catalogue; "sampled_softmax" over `num_negatives` items shared by
        the positions of a batch, corrected for their sampling; "gbce" and "bce" against
        `num_negatives` items drawn for each position, from the log odds of a target among them
        on: scores of 0 are those of a model that knows nothing.
    negatives: how "sampled_softmax" draws: uniformly, by popularity, or "in_batch" (the targets of
        the batch; num_negatives is not used).
    calibration: t of "gbce", in [0, 1].
    """

    max_len: int = Field(default=50, ge=1)
    crop: Literal["last", "random"] = "last"
    loss: Literal["softmax", "sampled_softmax", "gbce", "bce"] = "softmax"
    num_negatives: int = Field(default=256, ge=1)
    negatives: Literal["uniform", "popularity", "in_batch"] = "uniform"
    calibration: float = Field(default=0.75, ge=0, le=1)


class ContextConfig(SequenceConfig):
    """Settings of the context that a model reads, by names of the dataset's context columns.

    context_in: known with each past event, once it is over.
    context_out: known of the request before it is answered. To list a column here is to declare
        that: an hour or a page is known then; how long the next item will be watched is not, and
        would make every evaluation too good to be true.
    context_dim: width of the vectors that stand for the values of a categorical column.
    """

    context_in: list[str] = Field(default_factory=list)
    context_out: list[str] = Field(default_factory=list)
    context_dim: int = Field(default=8, ge=1)

    @field_validator("context_in", "context_out", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Take one name without a list, and refuse a name that is there twice."""
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list) and len({*map(str, names)}) < len(names):
            raise ValueError("must name each column once")
        return names


class SequenceModel(Model):
    """Base of SASRec, GRU4Rec and M3.

    item_embedding: [I + 1, D], the table that items are read from; row 0 is padding, and zero. A
        parameter, or with `growth` a table that grows (`GrowingItems`), as the other two.
    log_popularity: [I + 1], log of each item's share of the training events, the answer to a
        history without events.
    """

    item_embedding: Any
    log_popularity: Tensor

    def __init__(self, config: Any, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.register_buffer("log_popularity", torch.zeros(num_items + 1))

    def observe_(self, histories: Histories) -> None:
        """Take note of how popular each item is in the training histories."""
        counts = histories.item_counts(self.num_items) + 1.0
        self.log_popularity.copy_(torch.from_numpy(np.log(counts / counts[1:].sum())))

    @property
    def output_embedding(self) -> Any:
        """The table [I + 1, D] that queries are matched with; by default the one read from."""
        return self.item_embedding

    @property
    def output_bias(self) -> Any:
        """A bias [I + 1] of the items' scores, where the model has one."""
        return None

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """Return what queries are matched with: vectors [I + 1, D], and biases [I + 1], if any."""
        bias = self.output_bias
        return all_rows(self.output_embedding), None if bias is None else all_rows(bias)

    @property
    def scored_tokens(self) -> int:
        """How many positions, padded ones too, are encoded at a time when scoring."""
        return SCORED_TOKENS

    @abstractmethod
    def encode(self, items: Tensor) -> Tensor:
        """Return the query behind every event [B, T, D] of items [B, T], which start at column 0.

        Query t depends on items 0..t alone.
        """

    def encode_last(self, items: Tensor, last: Tensor) -> Tensor:
        """Return the query [B, D] behind the events `last` [B] of items [B, T], as `encode` does.

        A model overrides it where one query costs less than all of them.
        """
        return self.encode(items)[torch.arange(items.shape[0], device=items.device), last]

    @abstractmethod
    def start(self) -> Any:
        """Return the state of a history without events."""

    @abstractmethod
    def advance(self, state: Any, item: int) -> tuple[Tensor, Any]:
        """Return the query [D] behind the next event, and the state that has read it."""

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        queries, lengths = self.queries(batch)
        scores = self.match(queries)
        is_empty = lengths == 0
        if bool(is_empty.any()):
            scores[is_empty] = self.log_popularity
        return scores

    def match(self, queries: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the scores [B, I + 1] of all items for queries [B, D]; fills `out`, if given."""
        table, bias = self.item_table()
        if bias is None:
            return torch.mm(queries, table.T, out=out)
        return torch.addmm(bias, queries, table.T, out=out)

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return the last query of each history [B, D] (zero without events), and lengths [B].

        Histories of similar length are encoded together, some thousand positions at a time.
        """
        batch = batch.without_padding().last(self.max_len)
        lengths = batch.offsets.diff()
        queries = self.log_popularity.new_zeros(len(batch), self.output_embedding.shape[1])
        order = torch.argsort(lengths, descending=True, stable=True)
        order = order[: int((lengths > 0).sum())]
        first = 0
        while first < len(order):
            longest = int(lengths[order[first]])
            rows = order[first : first + max(1, self.scored_tokens // longest)]
            items = batch.right_padded(rows, longest)
            context = self._context_of(batch, rows, longest)
            queries[rows] = self.encode_last(items, lengths[rows] - 1, *context).to(queries.dtype)
            first += len(rows)
        return queries, lengths

    def _context_of(
        self, batch: HistoryBatch, rows: Tensor, longest: int
    ) -> tuple[()] | tuple[Tensor | None, Tensor | None]:
        """Return the context of histories `rows` and of their requests, if the model reads any."""
        if self.context.is_empty:
            return ()
        event, request = batch.event_context, batch.request_context
        return (
            None if event is None else batch.right_padded(rows, longest, event),
            None if request is None else request[rows],
        )
