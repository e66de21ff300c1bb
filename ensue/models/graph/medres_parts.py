"""The parts of MEDRES beside its graphs: the dynamic component, and the heads that score.

Shapes: B users, C items, n rows, T places of a history, D width, R width of a representation, I
items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.data.feature_schema import EMPTY
from ensue.data.features import FeatureColumn, FeatureTable
from ensue.data.histories import HistoryBatch
from ensue.nn.dropout import Dropout
from ensue.nn.embedding import gather_rows
from ensue.nn.feature_rows import FeatureRows, FeatureValues
from ensue.nn.perceptron import add_pair_scores_, linear_layer, rectified_layer
from ensue.nn.towers import FeatureEmbedding, Sizes

FACTOR = 10.0  # of cosines, at the start


class FeaturePart(nn.Module):
    """What the features of a user or an item say: a rectified layer over all of them [n, D].

    values: of the features of all of them, where the model reads any.
    """

    def __init__(
        self, columns: Sequence[FeatureColumn], *, num_rows: int, dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.values = FeatureValues(columns, num_rows=num_rows)
        self.embedding = FeatureEmbedding(columns, sizes=Sizes(0, 0, dim))
        self.layer = rectified_layer(self.embedding.width, dim)
        self.dropout = Dropout(dropout)

    def forward(self, rows: FeatureRows) -> Tensor:
        """Return [n, D] of the features of n rows."""
        slots = self.embedding(torch.empty(0, dtype=torch.long), rows)
        return F.relu(self.layer(self.dropout(self.embedding.join(slots))))

    @staticmethod
    def table_of(part: FeaturePart | None) -> FeatureTable:
        """Return the features that a part reads, one without columns for None."""
        return EMPTY if part is None else part.values.table()


class RecentPart(nn.Module):
    """What the last T items of a history say: a rectified layer over a weighted sum of their
    vectors, with a weight for each place and each number of a vector, as Caser's vertical filters.
    """

    def __init__(self, *, num_items: int, places: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.item_embedding = nn.Parameter(torch.randn(num_items + 1, dim) * 0.1)
        fading = torch.linspace(-2, 0, places).exp()
        self.weights = nn.Parameter((fading / fading.sum())[:, None].repeat(1, dim))
        self.layer = rectified_layer(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, batch: HistoryBatch) -> Tensor:
        """Return [B, D] of histories."""
        items = batch.padded(len(self.weights))
        vectors = gather_rows(self.item_embedding, items, padding_idx=0)
        is_real = (items > 0)[:, :, None]
        summed = (vectors * is_real * self.weights).sum(dim=1)
        return F.relu(self.layer(self.dropout(summed)))


class Head(nn.Module, ABC):
    """Scores of pairs, of what is made of users and of items apart."""

    @abstractmethod
    def of_user(self, users: Tensor) -> Tensor:
        """Return queries [B, D] of users [B, R]."""

    @abstractmethod
    def of_item(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors [n, D] and biases [n] of items [n, R]."""

    @abstractmethod
    def match(self, queries: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Return scores [B, C] of queries [B, D] and items [C, D]."""

    @abstractmethod
    def match_pairs(self, queries: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Return scores [B, C] of queries [B, D] and items [B, C, D]."""


class DotHead(Head):
    """Scores are products of two vectors, plus a bias of the item.

    The vectors start as what the graphs say, the first D of the R numbers.
    """

    def __init__(self, user_width: int, item_width: int, dim: int) -> None:
        super().__init__()
        self.of_users = nn.Linear(user_width, dim)
        self.of_items = nn.Linear(item_width, dim)
        self.bias = nn.Linear(item_width, 1)
        for layer in (self.of_users, self.of_items):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.bias.bias)

    def of_user(self, users: Tensor) -> Tensor:
        """Return queries [B, D] of users [B, R]."""
        queries: Tensor = self.of_users(users)
        return queries

    def of_item(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors [n, D] and biases [n] of items [n, R]."""
        return self.of_items(items), self.bias(items).squeeze(1)

    def match(self, queries: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Return scores [B, C] of queries [B, D] and items [C, D]."""
        return torch.addmm(biases, queries, items.T)

    def match_pairs(self, queries: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Return scores [B, C] of queries [B, D] and items [B, C, D]."""
        return torch.bmm(items, queries[:, :, None]).squeeze(2) + biases


class CosineHead(DotHead):
    """Scores are cosines times a trained factor, plus a bias of the item."""

    def __init__(self, user_width: int, item_width: int, dim: int) -> None:
        super().__init__(user_width, item_width, dim)
        self.log_factor = nn.Parameter(torch.tensor([FACTOR]).log())

    def of_user(self, users: Tensor) -> Tensor:
        """Return queries [B, D] of users [B, R]; their length is the factor."""
        return F.normalize(super().of_user(users), dim=1) * self.log_factor.exp()

    def of_item(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors [n, D] of length 1 and biases [n] of items [n, R]."""
        vectors, biases = super().of_item(items)
        return F.normalize(vectors, dim=1), biases


class PerceptronHead(Head):
    """Scores are a perceptron of two hidden layers over user and item side by side.

    Its first layer is made of users and of items apart: that is what is stored of an item.
    """

    def __init__(self, user_width: int, item_width: int, dim: int) -> None:
        super().__init__()
        whole = rectified_layer(user_width + item_width, dim)
        self.of_users = nn.Linear(user_width, dim, bias=False)
        self.of_items = nn.Linear(item_width, dim)
        with torch.no_grad():
            self.of_users.weight.copy_(whole.weight[:, :user_width])
            self.of_items.weight.copy_(whole.weight[:, user_width:])
            self.of_items.bias.zero_()
        self.second = rectified_layer(dim, max(1, dim // 2))
        self.output = linear_layer(max(1, dim // 2), 1)

    def of_user(self, users: Tensor) -> Tensor:
        """Return what users [B, R] add to the first layer [B, D]."""
        queries: Tensor = self.of_users(users)
        return queries

    def of_item(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return what items [n, R] add to the first layer [n, D], and biases of zero [n]."""
        vectors: Tensor = self.of_items(items)
        return vectors, vectors.new_zeros(len(items))

    def match(self, queries: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Return scores [B, C] of first layers [B, D] and [C, D], made in blocks of items."""
        scores = queries.new_zeros(len(queries), len(items))
        return add_pair_scores_(scores, queries, items, self._behind)

    def match_pairs(self, queries: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Return scores [B, C] of first layers [B, D] and [B, C, D]."""
        return self._behind(queries[:, None] + items)

    def _behind(self, x: Tensor) -> Tensor:
        """Return scores [B, C] of the first layer [B, C, D]."""
        scores: Tensor = self.output(F.relu(self.second(x.relu())))
        return scores.squeeze(-1)


HEADS: dict[str, type[DotHead] | type[PerceptronHead]] = {
    "cosine": CosineHead,
    "dot": DotHead,
    "mlp": PerceptronHead,
}
