"""Rows of a ranking dataset as arrays, and batches gathered from them.

Shapes: n rows; B rows of a batch; C columns of codes, of which the first are the categorical ones;
S values of the bags of B rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.data.ranking.arrays import ragged_rows
from ensue.data.ranking.batch import Bag, RankingBatch


@dataclass(frozen=True)
class StoredBag:
    """Bags: row r has values[ends[r] - lengths[r]:ends[r]].

    ids: [V + 1], the 64-bit id of each code.
    by: which column of codes numbers the rows of `ends`; None where those are the rows themselves.
    """

    values: NDArray[np.int32]
    ends: NDArray[np.int64]
    lengths: NDArray[np.int32]
    ids: NDArray[np.int64]
    by: int | None

    def read(self, rows: slice) -> StoredBag:
        """Return the bags of some rows, their places read into memory."""
        return replace(self, ends=np.array(self.ends[rows]), lengths=np.array(self.lengths[rows]))


@dataclass(frozen=True)
class StoredVector:
    """Vectors [n, D] of rows, or of the codes of column `by`."""

    values: NDArray[np.float32]
    by: int | None


@dataclass(frozen=True)
class StoredRows:
    """Some consecutive rows of a dataset, memory-mapped or read into memory.

    codes: [n, C] int32; num_features: how many of the C columns are categorical features.
    weights: [n, W]; weight_of_task: [M], which column of weights is a task's, -1 is none.
    ids: the 64-bit ids of the codes of all categorical columns, one column after the other;
        id_starts: [num_features], where each begins.
    """

    codes: NDArray[np.int32]
    num_features: int
    numbers: NDArray[np.float32]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    weight_of_task: NDArray[np.int64]
    bags: tuple[StoredBag, ...]
    vectors: tuple[StoredVector, ...]
    ids: NDArray[np.int64]
    id_starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.codes)

    def read(self, first: int, end: int) -> StoredRows:
        """Return rows first..end - 1 read into memory, each array in one piece of its file.

        The values of bags stay where they are.
        """
        rows = slice(first, end)
        return replace(
            self,
            codes=np.array(self.codes[rows]),
            numbers=np.array(self.numbers[rows]),
            labels=np.array(self.labels[rows]),
            weights=np.array(self.weights[rows]),
            bags=tuple(bag if bag.by is not None else bag.read(rows) for bag in self.bags),
            vectors=tuple(
                one if one.by is not None else replace(one, values=np.array(one.values[rows]))
                for one in self.vectors
            ),
        )

    def batch(self, index: NDArray[np.int64] | slice, *, as_ids: bool = False) -> RankingBatch:
        """Return some rows as tensors.

        Args:
            index: [B], or a slice.
            as_ids: give the 64-bit ids of values in place of their codes.
        """
        codes = self.codes[index]
        own = codes[:, : self.num_features]
        features = self.ids[own + self.id_starts] if as_ids else own.astype(np.int64)
        return RankingBatch(
            codes=torch.from_numpy(np.ascontiguousarray(features)),
            bags=tuple(self._bag(bag, codes, index, as_ids=as_ids) for bag in self.bags),
            numbers=_tensor(self.numbers[index]),
            vectors=tuple(
                _tensor(one.values[index if one.by is None else codes[:, one.by]])
                for one in self.vectors
            ),
            labels=_tensor(self.labels[index]),
            weights=self._weights(index, len(codes)),
        )

    def _bag(
        self,
        bag: StoredBag,
        codes: NDArray[np.int32],
        index: NDArray[np.int64] | slice,
        *,
        as_ids: bool,
    ) -> Bag:
        rows = index if bag.by is None else codes[:, bag.by]
        ends, lengths = bag.ends[rows], bag.lengths[rows]
        values = bag.values[ragged_rows(ends - lengths, lengths)]
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        found = bag.ids[values] if as_ids else values.astype(np.int64)
        return Bag(torch.from_numpy(found), torch.from_numpy(offsets))

    def _weights(self, index: NDArray[np.int64] | slice, num_rows: int) -> torch.Tensor:
        weights = np.ones((num_rows, len(self.weight_of_task)), dtype=np.float32)
        has_weight = self.weight_of_task >= 0
        if has_weight.any():
            weights[:, has_weight] = self.weights[index][:, self.weight_of_task[has_weight]]
        return torch.from_numpy(weights)


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    """Return values as a tensor of its own memory: those of a slice may be a read-only file."""
    return torch.from_numpy(np.array(values))
