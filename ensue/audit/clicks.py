"""Who clicked what, once each, as attacks and detectors read it.

Shapes: N users, I items, R clicks. Items are columns 0 to I - 1: column c is the item of id c + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.cooccurrence import transpose
from ensue.data.histories import Histories


class Clicks(NamedTuple):
    """A binary matrix [N, I] by rows.

    offsets: [N + 1] int64; user n has columns[offsets[n]:offsets[n + 1]].
    columns: [R] int32, ascending and distinct in each row.
    """

    offsets: NDArray[np.int64]
    columns: NDArray[np.int32]
    num_items: int

    @property
    def num_users(self) -> int:
        """Number of rows N."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Clicks of each user [N]."""
        return np.diff(self.offsets)

    def counts(self) -> NDArray[np.int64]:
        """Return the clicks of each item [I]."""
        return np.bincount(self.columns, minlength=self.num_items)

    def dense(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the rows of some users [n, I]."""
        table = np.zeros((len(users), self.num_items), dtype=np.bool_)
        for row, user in enumerate(users.tolist()):
            table[row, self.columns[self.offsets[user] : self.offsets[user + 1]]] = True
        return table

    def join(self, others: Clicks) -> Clicks:
        """Return these users, and others of the same items behind them.

        >>> one, other = (Clicks.from_dense(np.eye(2, dtype=bool)[[row]]) for row in (0, 1))
        >>> one.join(other).columns.tolist()
        [0, 1]
        """
        offsets = np.concatenate([self.offsets, self.offsets[-1] + others.offsets[1:]])
        return Clicks(offsets, np.concatenate([self.columns, others.columns]), self.num_items)

    @classmethod
    def from_rows(cls, rows: Sequence[NDArray[np.int64]], num_items: int) -> Clicks:
        """Return the clicks of users given as columns, in any order, with repeats."""
        distinct = [np.unique(row) for row in rows]
        offsets = np.cumsum([0, *(len(row) for row in distinct)], dtype=np.int64)
        columns = np.concatenate([np.empty(0, np.int64), *distinct])
        return cls(offsets, columns.astype(np.int32), num_items)

    @classmethod
    def from_dense(cls, table: NDArray[np.bool_]) -> Clicks:
        """Return the clicks of a matrix [N, I].

        >>> Clicks.from_dense(np.array([[True, False, True]])).columns.tolist()
        [0, 2]
        """
        rows, columns = np.nonzero(table)
        counts = np.bincount(rows, minlength=len(table))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets, columns.astype(np.int32), table.shape[1])

    @classmethod
    def from_histories(cls, histories: Histories, num_items: int) -> Clicks:
        """Return the distinct items of each user's history, in the order of users 1 to U."""
        lengths = (histories.ends - histories.starts)[1:]
        owners = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        rows, _ = histories.rows(np.arange(1, len(lengths) + 1))
        keys = np.unique(owners * num_items + (histories.items[rows].astype(np.int64) - 1))
        counts = np.bincount(keys // num_items, minlength=len(lengths))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets, (keys % num_items).astype(np.int32), num_items)


def both_ways(clicks: Clicks) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (offsets, columns [R]) by user, and (offsets, users [R]) by item."""
    by_item = transpose(clicks.offsets, clicks.columns, clicks.num_items - 1)
    return (
        (torch.from_numpy(clicks.offsets), torch.from_numpy(clicks.columns)),
        (torch.from_numpy(by_item[0]), torch.from_numpy(by_item[1])),
    )
