"""Rows of fixed-width columns on their way through prepare: in memory while small, else on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


class RowStore:
    """Rows in the order in which they were appended.

    >>> store = RowStore({"user": np.dtype(np.int32)}, Path("unused"), memory_bytes=100)
    >>> store.append({"user": np.array([3, 1], dtype=np.int32)})
    >>> store.num_rows, store.column("user").tolist()
    (2, [3, 1])
    """

    def __init__(
        self, dtypes: Mapping[str, np.dtype[Any]], folder: Path, *, memory_bytes: int
    ) -> None:
        """Make an empty store.

        Args:
            folder: a new folder, made when rows go to disk: one file per column.
            memory_bytes: rows beyond this go to disk.
        """
        self.dtypes = dict(dtypes)
        self.folder = folder
        self.memory_bytes = memory_bytes
        self.num_rows = 0
        self._recent: list[Columns] = []
        self._recent_bytes = 0
        self._rows_on_disk = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(dtype.itemsize for dtype in self.dtypes.values())

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows; `columns` holds every column of the store."""
        chunk = {n: np.ascontiguousarray(columns[n], dtype=d) for n, d in self.dtypes.items()}
        num_rows = len(next(iter(chunk.values())))
        if not num_rows:
            return
        self._recent.append(chunk)
        self._recent_bytes += num_rows * self.row_bytes
        self.num_rows += num_rows
        if self._recent_bytes > self.memory_bytes:
            self._flush()

    def chunks(
        self, names: Sequence[str] | None = None, *, num_rows: int = 1 << 20
    ) -> Iterator[Columns]:
        """Yield the rows in order, all columns or some, about `num_rows` at a time."""
        names = list(self.dtypes) if names is None else names
        for first in range(0, self._rows_on_disk, num_rows):
            count = min(num_rows, self._rows_on_disk - first)
            yield {name: self._read(name, first, count) for name in names}
        for chunk in self._recent:
            yield {name: chunk[name] for name in names}

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole column."""
        whole = np.empty(self.num_rows, dtype=self.dtypes[name])
        position = 0
        for chunk in self.chunks([name]):
            whole[position : position + len(chunk[name])] = chunk[name]
            position += len(chunk[name])
        return whole

    def array(self, name: str) -> NDArray[Any]:
        """Return a whole column, not to be changed: memory-mapped where rows went to disk."""
        if not self._rows_on_disk:
            return self._merged()[name]
        if self._recent:
            self._flush()
        dtype = self.dtypes[name]
        mapped: NDArray[Any] = np.memmap(
            self._file(name), dtype=dtype, mode="r", shape=(self.num_rows,)
        )
        return mapped

    def clear(self) -> None:
        """Give up all rows, their memory and their files."""
        self._recent, self._recent_bytes = [], 0
        self.num_rows = self._rows_on_disk = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def like(self, name: str, *, memory_bytes: int | None = None) -> RowStore:
        """Return an empty store of the same columns, in a folder beside this one's."""
        limit = self.memory_bytes if memory_bytes is None else memory_bytes
        return RowStore(self.dtypes, self.folder.with_name(name), memory_bytes=limit)

    def _merged(self) -> Columns:
        """Return the rows in memory as one chunk, which takes the place of all."""
        if len(self._recent) != 1:
            merged: Columns = {}
            for name in self.dtypes:
                merged[name] = self.column(name)
                for chunk in self._recent:
                    del chunk[name]  # at no time are there two copies of everything
            self._recent = [merged]
        return self._recent[0]

    def _flush(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.dtypes:
            with self._file(name).open("ab") as file:
                for chunk in self._recent:
                    file.write(chunk[name].data)
        self._recent, self._recent_bytes = [], 0
        self._rows_on_disk = self.num_rows

    def _read(self, name: str, first: int, count: int) -> NDArray[Any]:
        dtype = self.dtypes[name]
        return np.fromfile(
            self._file(name), dtype=dtype, count=count, offset=first * dtype.itemsize
        )

    def _file(self, name: str) -> Path:
        return self.folder / f"{list(self.dtypes).index(name)}.bin"  # a name may hold a slash
