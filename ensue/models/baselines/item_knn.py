"""Item kNN: items that share users with the items of the history.

Sarwar et al., "Item-based collaborative filtering", WWW 2001, on binary data. With n(i) users of
item i and n(i, j) of both i and j,

    similarity(i, j) = n(i, j) / (sqrt(n(i) n(j)) + shrinkage)

kept for the `num_neighbors` most similar j of each i (ties to the smaller id). The score of j is
the sum over the distinct items i of the history of decay ** age * similarity(i, j), where the last
item has age 0. Departures: `decay` is ours (1 is the published method), and items without a
neighbor in the history follow the others in order of popularity, with scores in [-1, 0).
Shapes: B batch, I items, K neighbors, N stored similarities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from pydantic import Field
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer

from ensue.config import Config
from ensue.data.cooccurrence import Incidence, count_common_, map_item_blocks
from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import FittedModel
from ensue.nn.jagged import last_occurrences, row_numbers, take_rows
from ensue.nn.selection import keep_best, sort_

_MAX_GATHERED = 1 << 17  # similarities in flight while scoring: they stay in cache


class ItemKNNConfig(Config):
    """decay: weight of an item of the history relative to the one after it; 1 ignores order."""

    num_neighbors: int = Field(default=100, ge=1, le=10_000)
    shrinkage: float = Field(default=10.0, ge=0.0)
    decay: float = Field(default=1.0, gt=0.0, le=1.0)


class ItemKNN(FittedModel):
    """Neighbors by rows: those of i are neighbors[offsets[i]:offsets[i + 1]]."""

    Config = ItemKNNConfig
    offsets: Tensor
    neighbors: Tensor
    similarities: Tensor
    fallback: Tensor

    def __init__(self, config: ItemKNNConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.register_buffer("fallback", torch.zeros(num_items + 1))
        self.register_buffer("offsets", torch.zeros(num_items + 2, dtype=torch.long))
        # How many similarities there are is known once they are computed or loaded.
        self.register_buffer("neighbors", UninitializedBuffer())
        self.register_buffer("similarities", UninitializedBuffer())

    def fit_(self, histories: Histories) -> None:
        """Find the nearest neighbors of every item."""
        incidence = Incidence.from_histories(histories, self.num_items)
        num_neighbors, shrinkage = self.config.num_neighbors, self.config.shrinkage
        blocks = map_item_blocks(
            lambda first, last: _neighbors(first, last, incidence, num_neighbors, shrinkage),
            self.num_items,
        )
        lengths, neighbors, similarities = map(np.concatenate, zip(*blocks, strict=True))
        self.offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
        self.neighbors = torch.from_numpy(neighbors)
        self.similarities = torch.from_numpy(similarities)
        counts = histories.item_counts(self.num_items)
        self.fallback = torch.from_numpy(counts / (counts.max() + 1) - 1).float()

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return summed similarities to the history, below zero for items that have none."""
        width = self.num_items + 1
        rows = row_numbers(batch.offsets)
        last = last_occurrences(rows, batch.items, width)
        rows, items = rows[last], batch.items[last]
        weights = self.config.decay ** (batch.offsets[1:][rows] - 1 - last).float()
        scores = torch.zeros(len(batch) * width, device=items.device)
        step = max(1, _MAX_GATHERED // self.config.num_neighbors)
        for part in (slice(first, first + step) for first in range(0, len(items), step)):
            positions, source = take_rows(self.offsets, items[part])
            cells = rows[part][source] * width + self.neighbors[positions]
            scores.index_add_(0, cells, self.similarities[positions] * weights[part][source])
        scores = scores.view(len(batch), width)
        return torch.where(scores > 0, scores, self.fallback)


@njit(cache=True, nogil=True)
def _neighbors(
    first: int, last: int, incidence: Any, num_neighbors: int, shrinkage: float
) -> tuple[Any, Any, Any]:
    """Return (number of neighbors, neighbors, similarities) of items first..last - 1, by rows."""
    num_ids = len(incidence.item_offsets) - 1
    counts = np.zeros(num_ids, np.int32)
    touched = np.empty(num_ids, np.int32)
    similarity = np.empty(num_ids)
    lengths = np.zeros(last - first, np.int64)
    neighbors = np.empty((last - first) * num_neighbors, np.int32)
    similarities = np.empty((last - first) * num_neighbors, np.float32)
    end = 0
    for item in range(first, last):
        n = count_common_(item, incidence, counts, touched)
        own = counts[item]
        counts[item] = 0  # an item is not its own neighbor
        for index in range(n):
            other = touched[index]
            users = incidence.item_offsets[other + 1] - incidence.item_offsets[other]
            similarity[other] = counts[other] / (np.sqrt(float(own) * users) + shrinkage)
            counts[other] = 0
        kept = _strongest(touched[:n], similarity, item, num_neighbors)
        lengths[item - first] = len(kept)
        for other in kept:
            neighbors[end] = other
            similarities[end] = similarity[other]
            end += 1
    return lengths, neighbors[:end].copy(), similarities[:end].copy()


@njit(cache=True, nogil=True)
def _strongest(candidates: Any, similarity: Any, item: int, k: int) -> Any:
    """Return the k candidates other than `item` of largest similarity, ascending."""
    others, values, n = np.empty_like(candidates), np.empty(len(candidates)), 0
    for other in candidates:
        if other != item:
            others[n], values[n] = other, similarity[other]
            n += 1
    kept, best = np.empty(min(n, k), candidates.dtype), np.empty(min(n, k))
    keep_best(others[:n], values[:n], kept, best)
    sort_(kept)
    return kept
