"""Raw ids from the log (strings) and dense ids 1..n; 0 stands for padding and for "unknown"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.compute as pc
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
        self._raw_list: list[str] | None = None
        self._by_hash: tuple[NDArray[np.uint64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.raw)

    def to_dense(self, raw_ids: Iterable[str | int]) -> NDArray[np.int64]:
        """Return dense ids [n]; 0 where a raw id is unknown."""
        if self._dense is None:  # built on first use: a run that only ranks never needs it
            self._dense = dict(zip(self.raw.to_list(), range(1, len(self) + 1), strict=True))
        known = self._dense
        return np.fromiter((known.get(str(raw), 0) for raw in raw_ids), dtype=np.int64)

    def find(self, raw_ids: pl.Series) -> NDArray[np.int64]:
        """Return what `to_dense` does, for a column of text or of integers.

        Millions of ids are looked up without an object for any of them, each different one once.
        """
        if isinstance(raw_ids.dtype, (pl.Categorical, pl.Enum)):
            raw_ids = raw_ids.cast(pl.String)
        encoded = pc.dictionary_encode(raw_ids.to_arrow())
        different = pl.Series(pl.from_arrow(encoded.dictionary)).cast(pl.String)
        dense = np.append(self._search(different), 0)  # the last is that of a missing id
        return dense[pc.fill_null(encoded.indices, len(different)).to_numpy(zero_copy_only=False)]

    def _search(self, raw_ids: pl.Series) -> NDArray[np.int64]:
        """Return dense ids of text [n], none of it missing, by search among sorted hashes."""
        if len(self) == 0:
            return np.zeros(len(raw_ids), dtype=np.int64)
        if self._by_hash is None:
            hashes = _hash(self.raw)
            order = np.argsort(hashes)
            self._by_hash = hashes[order], order
        hashes, order = self._by_hash
        wanted = _hash(raw_ids)
        places = np.minimum(np.searchsorted(hashes, wanted), len(self) - 1)
        rows = order[places]
        is_found = (self.raw.gather(rows) == raw_ids).to_numpy()
        dense = np.where(is_found, rows + 1, 0)
        shares_hash = np.flatnonzero(~is_found & (hashes[places] == wanted))  # hardly ever any
        if len(shares_hash):
            dense[shares_hash] = self.to_dense(raw_ids.gather(shares_hash))
        return dense

    def to_raw(self, dense_ids: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """Return the raw ids of dense ids 1..n."""
        rows = np.asarray(dense_ids, dtype=np.int64) - 1
        if self._dense is not None:  # has them all as objects already
            if self._raw_list is None:
                self._raw_list = list(self._dense)
            return [self._raw_list[row] for row in rows.tolist()]
        if len(rows) < FEW:
            raw = self.raw
            return [raw[row] for row in rows.tolist()]
        return self.raw.gather(rows).to_list()

    @classmethod
    def read(cls, path: str | Path) -> IdMap:
        """Read the `raw_id` column of an Arrow IPC file in dense-id order."""
        return cls(pl.read_ipc(path, columns=["raw_id"])["raw_id"])


def _hash(text: pl.Series) -> NDArray[np.uint64]:
    return text.hash().to_numpy()
