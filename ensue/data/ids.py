"""Raw ids from the log (strings) and dense ids 1..n; 0 stands for padding and for "unknown"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

FEW = 64  # ids that are quicker looked up one by one


class IdMap:
    """A bijection between raw ids and 1..n, in the order in which the raw ids are given.

    >>> ids = IdMap(pl.Series(["a", "b"]))
    >>> ids.to_dense(["b", "x"]).tolist(), ids.to_raw([1, 2])
    ([2, 0], ['a', 'b'])
    """

    def __init__(self, raw: pl.Series) -> None:
        self.raw = raw.cast(pl.String).rename("raw_id")
        self._dense: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.raw)

    def to_dense(self, raw_ids: Iterable[str | int]) -> NDArray[np.int64]:
        """Return dense ids [n]; 0 where a raw id is unknown."""
        if self._dense is None:  # built on first use: a run that only ranks never needs it
            self._dense = dict(zip(self.raw.to_list(), range(1, len(self) + 1), strict=True))
        known = self._dense
        return np.fromiter((known.get(str(raw), 0) for raw in raw_ids), dtype=np.int64)

    def to_raw(self, dense_ids: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """Return the raw ids of dense ids 1..n."""
        rows = np.asarray(dense_ids, dtype=np.int64) - 1
        if len(rows) < FEW:
            raw = self.raw
            return [raw[row] for row in rows.tolist()]
        return self.raw.gather(rows).to_list()

    @classmethod
    def read(cls, path: str | Path) -> IdMap:
        """Read the `raw_id` column of an Arrow IPC file in dense-id order."""
        return cls(pl.read_ipc(path, columns=["raw_id"])["raw_id"])
