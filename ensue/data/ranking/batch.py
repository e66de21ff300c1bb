"""Rows of a ranking dataset as tensors.

Shapes: B rows; C categorical, K numeric columns; M tasks; S values in the bags of B rows; D width
of a vector. Columns of one kind are in the order of the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ensue.data.ranking.schema import RankingSchema


class Bag(NamedTuple):
    """Values of B rows: row b has values[offsets[b]:offsets[b + 1]], those of a history in order.

    values: [S] int64; offsets: [B + 1] int64.
    """

    values: Tensor
    offsets: Tensor

    def take(self, rows: Tensor) -> Bag:
        """Return the bags of `rows` [n], in any order and any number of times.

        >>> bag = Bag(torch.tensor([7, 8, 9]), torch.tensor([0, 1, 1, 3]))
        >>> bag.take(torch.tensor([2, 1, 2])).values.tolist()
        [8, 9, 8, 9]
        """
        starts = self.offsets.index_select(0, rows)
        lengths = self.offsets.diff().index_select(0, rows)
        ends = lengths.cumsum(0)
        offsets = torch.cat([ends.new_zeros(1), ends])
        places = torch.arange(int(offsets[-1]))
        places += (starts - offsets[:-1]).repeat_interleave(lengths)
        return Bag(self.values.index_select(0, places), offsets)


@dataclass(frozen=True)
class RankingBatch:
    """Rows of features with their labels.

    codes: [B, C] int64 of categorical columns; 0 is missing or unknown. For a model with growing
        tables they are 64-bit ids in place of codes, here and in the bags.
    bags: of each multi-valued and each history column.
    numbers: [B, K] float32, standardized, NaN where missing.
    vectors: [B, D] float32 of each vector column, NaN where missing.
    labels: [B, M] float32, NaN where a row has none. weights: [B, M] float32.
    """

    codes: Tensor
    bags: tuple[Bag, ...]
    numbers: Tensor
    vectors: tuple[Tensor, ...]
    labels: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a row, those of the labels first."""
        bags = [tensor for bag in self.bags for tensor in bag]
        return [self.labels, self.weights, self.codes, self.numbers, *bags, *self.vectors]

    def rows(self, start: int, end: int) -> RankingBatch:
        """Return the rows start, ..., end - 1, as far as there are so many."""
        bags = []
        for values, offsets in self.bags:
            own = offsets[start : end + 1]
            first, last = (int(own[0]), int(own[-1])) if len(own) else (0, 0)
            kept = own - first if len(own) else offsets.new_zeros(1)
            bags.append(Bag(values[first:last], kept))
        return RankingBatch(
            self.codes[start:end],
            tuple(bags),
            self.numbers[start:end],
            tuple(vectors[start:end] for vectors in self.vectors),
            self.labels[start:end],
            self.weights[start:end],
        )

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], schema: RankingSchema) -> RankingBatch:
        """Return the batch of which these are the `tensors()`."""
        labels, weights, codes, numbers, *rest = tensors
        num_bags = len(schema.of_kind("multi", "history"))
        bags = tuple(Bag(rest[2 * n], rest[2 * n + 1]) for n in range(num_bags))
        return cls(codes, bags, numbers, tuple(rest[2 * num_bags :]), labels, weights)
