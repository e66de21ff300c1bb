"""Exact search: every query with every item, in blocks that stay in cache.

A block of scores is one matrix product; what it holds above each query's k-th best score so far is
kept (`indexes.selection`), the rest is overwritten by the next one.
Shapes: B queries, D width, I items, k answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ensue.config import Config
from ensue.indexes.selection import Selection, room
from ensue.indexes.vectors import ItemVectors, prepare_queries

ROWS = 512  # queries that share a pass over the items
BLOCK = 1 << 17  # scores of a block: 512 KiB, the second-level cache
MIN_COLUMNS = 64


class ExactConfig(Config):
    """Settings of exact search.

    memory_bytes: of scores and candidates held at a time, beside the items and the answers.
    """

    memory_bytes: int = Field(default=64 << 20, ge=1 << 16)


class ExactIndex:
    """The items themselves."""

    def __init__(self, items: ItemVectors, config: ExactConfig | None = None) -> None:
        self.items, self.config = items, config or ExactConfig()
        self.num_items = len(items.rows)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids [B, k] and the scores [B, k] of the best items of queries [B, D].

        Best first; equal scores by ascending id; 0 and -inf where k > I.

        Raises:
            UsageError: queries have another width, or are not finite; k < 1.
        """
        rows, has_bias = self.items.rows, self.items.has_bias
        queries = prepare_queries(queries, k, dim=rows.shape[1] - has_bias, has_bias=has_bias)
        ids = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        kept_bytes = 8 * room(min(k, len(rows)), len(rows))
        fitting = self.config.memory_bytes // (kept_bytes + 4 * MIN_COLUMNS)
        size = max(1, min(len(queries), ROWS, fitting))
        memory = np.empty(max(BLOCK, size * MIN_COLUMNS), dtype=np.float32)
        for first in range(0, len(queries), size):
            part = slice(first, first + size)
            ids[part], scores[part] = self._search(queries[part], k, memory)
        return ids, scores

    def _search(
        self, queries: NDArray[np.float32], k: int, memory: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the answers to one block of queries; blocks of scores lie in `memory`."""
        items = self.items.rows
        selection = Selection(len(queries), k, len(items))
        width = len(memory) // len(queries)
        for start in range(0, len(items), width):
            block = items[start : start + width]
            scores = memory[: len(queries) * len(block)].reshape(len(queries), len(block))
            np.matmul(queries, block.T, out=scores)
            selection.add(scores, start + 1)
        return selection.best(k)
