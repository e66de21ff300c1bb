"""A worker's rows of a batch, with the values that it has the rows of.

Shapes: N workers, B rows of all of them, b of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.entries import OwnEntries
from ensue.nn.cells import Cells


@dataclass(frozen=True)
class SharedBatch(RankingBatch):
    """Rows of this worker, and the values of the rows of all.

    own: what this worker has in its tables, of b rows of each worker. num_rows: b.
    """

    own: OwnEntries
    num_rows: int

    @cached_property
    def cells(self) -> Cells:
        """What this worker has in its tables, for look-ups: tables share what is found of it."""
        return Cells(*self.own)

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a row, those of the entries first."""
        return [*self.own, *super().tensors()]

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], schema: RankingSchema) -> SharedBatch:
        """Return the batch of which these are the `tensors()`."""
        own = OwnEntries(*tensors[: len(OwnEntries._fields)])
        rows = RankingBatch.from_tensors(tensors[len(own) :], schema)
        return cls.join(rows, own, own.lengths.shape[2])

    @classmethod
    def join(cls, rows: RankingBatch, own: OwnEntries, num_rows: int) -> SharedBatch:
        """Return rows of this worker with the values that it has rows of."""
        return cls(
            rows.codes,
            rows.bags,
            rows.numbers,
            rows.vectors,
            rows.labels,
            rows.weights,
            own=own,
            num_rows=num_rows,
        )


def rows_of_one(total: int, size: int) -> int:
    """Return how many rows each of `size` workers has of a batch, the last ones maybe less."""
    return -(-total // size)
