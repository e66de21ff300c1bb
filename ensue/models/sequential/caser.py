"""Caser: the last items of a history as an image, read by horizontal and vertical convolutions.

Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding",
WSDM 2018, arXiv:1809.07426.
Departures: features are ordered vertical first, as in the authors' programs; a missing part of an
ablation is zero before the hidden layer, except that "p" alone has z = 0 (Eq. 14), so that no
constant bias leaks in; a user never seen in training has the mean user vector; row 0 of both item
tables (padding) is zero and stays zero.
Shapes: B batch, L window length, D width, C candidates, I items, U users. Item 0 is left padding.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ensue.data.histories import HistoryBatch
from ensue.models.base import ItemsConfig, Model
from ensue.models.sequential.caser_queries import CaserQueries
from ensue.nn.activations import ACTIVATIONS, Activation
from ensue.nn.convolutions import WindowConvolutions
from ensue.nn.dropout import Dropout
from ensue.nn.embedding import dot_rows, gather_rows
from ensue.nn.growing_items import GrowingItems, all_rows

FEW = 16  # histories, that one compiled loop reads sooner than tensor operations do


class CaserConfig(ItemsConfig):
    """Settings of Caser; the defaults are the authors' PyTorch program.

    window: L, how many last items are read. num_targets: T, items after the window to predict.
    num_horizontal: filters per height. num_vertical: vertical filters.
    num_negatives: sampled per window; None is 3 per target (the paper).
    loss: "mean" averages positives and negatives separately and adds the two (the authors'
        PyTorch program); "sum" adds all terms of a window and averages over windows (the paper).
    parts: which of p (user vector), v (vertical), h (horizontal) are used.
    """

    dim: int = Field(default=50, ge=1)
    window: int = Field(default=5, ge=1)
    num_targets: int = Field(default=3, ge=1)
    num_horizontal: int = Field(default=16, ge=1)
    num_vertical: int = Field(default=4, ge=1)
    conv_activation: Activation = "relu"
    hidden_activation: Activation = "relu"
    dropout: float = Field(default=0.5, ge=0, lt=0.99)
    num_negatives: int | None = Field(default=3, ge=1)
    loss: Literal["mean", "sum"] = "mean"
    parts: Literal["p", "h", "v", "vh", "ph", "pv", "pvh"] = "pvh"


class Caser(Model):
    """The network of the paper's Figure 3."""

    Config = CaserConfig

    def __init__(self, config: CaserConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        dim = config.dim
        self.max_len = config.window
        self._frozen: CaserQueries | None = None
        self.user_embedding: Any = nn.Parameter(torch.randn(num_users, dim) / dim)
        self.item_embedding: Any
        self.output_embedding: Any
        self.output_bias: Any
        if config.growth is not None:
            self.item_embedding = GrowingItems(num_items, dim, config.growth, std=1 / dim)
        else:
            self.item_embedding = nn.Parameter(_zero_padding(torch.randn(num_items + 1, dim) / dim))
        self.convolutions = WindowConvolutions(
            config.window,
            dim,
            num_horizontal=config.num_horizontal,
            num_vertical=config.num_vertical,
            activation=config.conv_activation,
            parts=config.parts,
        )
        self.dropout = Dropout(config.dropout)
        self.hidden = nn.Linear(self.convolutions.num_features, dim)
        self.hidden_activation = ACTIVATIONS[config.hidden_activation]
        if config.growth is not None:
            self.output_embedding = GrowingItems(
                num_items, 2 * dim, config.growth, std=1 / (2 * dim), place=1
            )
            self.output_bias = GrowingItems(num_items, None, config.growth, std=0.0)
        else:
            self.output_embedding = nn.Parameter(
                _zero_padding(torch.randn(num_items + 1, 2 * dim) / (2 * dim))
            )
            self.output_bias = nn.Parameter(torch.zeros(num_items + 1))

    def forward(self, users: Tensor, windows: Tensor) -> Tensor:
        """Encode users [B] (0 unknown) and windows [B, L] as queries [z ; P_u] [B, 2 D]."""
        return torch.cat([self.sequence_vector(windows), self._user_vector(users)], dim=1)

    def logits(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Return logits [B, C] of candidate ids [B, C] for queries [B, 2 D]."""
        products = dot_rows(queries, self.output_embedding, candidates)
        return products + gather_rows(self.output_bias, candidates)

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        return self.match(self._queries(batch))

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return the query of each history [B, 2 D], and lengths [B]."""
        return self._queries(batch), batch.offsets.diff()

    def freeze_(self) -> None:
        """Place the filters, and have queries for a few histories from one compiled loop."""
        with torch.no_grad():
            self.convolutions.freeze_()
            self._frozen = CaserQueries(self) if CaserQueries.can_take(self) else None

    def item_table(self) -> tuple[Tensor, Tensor]:
        """Return what queries are matched with: vectors [I + 1, 2 D] and biases [I + 1]."""
        return all_rows(self.output_embedding), all_rows(self.output_bias)

    def match(self, queries: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the scores [B, I + 1] of all items for queries [B, 2 D]; fills `out`, if given."""
        table, bias = self.item_table()
        return torch.addmm(bias, queries, table.T, out=out)

    def _queries(self, batch: HistoryBatch) -> Tensor:
        if self._frozen is not None and len(batch) <= FEW:
            return self._frozen(batch)
        queries: Tensor = self(batch.users, batch.padded(self.config.window))
        return queries

    def sequence_vector(self, windows: Tensor) -> Tensor:
        """Return z of Eq. 10 [B, D]; zero when neither convolution is used."""
        if self.config.parts == "p":
            return self.hidden.weight.new_zeros(windows.shape[0], self.config.dim)
        vectors = gather_rows(self.item_embedding, windows, padding_idx=0)
        return self.hidden_activation(self.hidden(self.convolutions(vectors, self.dropout)))

    def _user_vector(self, users: Tensor) -> Tensor:
        """P_u [B, D]; the mean user for user 0, zero when the part is not used."""
        if "p" not in self.config.parts:
            return self.hidden.weight.new_zeros(users.shape[0], self.config.dim)
        vectors = gather_rows(self.user_embedding, (users - 1).clamp_(min=0))
        is_known = users > 0
        if self.training or bool(is_known.all()):  # every user of a training batch is known
            return vectors
        return torch.where(is_known[:, None], vectors, self.unknown_user())

    def unknown_user(self) -> Tensor:
        """Return what stands for a user never seen in training [D]: the mean of the others."""
        return all_rows(self.user_embedding).mean(dim=0)


def _zero_padding(table: Tensor) -> Tensor:
    """Return the table with row 0 set to zero."""
    table[0] = 0
    return table
