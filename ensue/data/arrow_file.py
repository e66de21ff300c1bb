"""Arrow IPC files of fixed-width columns: filled piece by piece, read as memory-mapped arrays.

A file holds one record batch, so each column is one contiguous array in it. The file is laid out at
its full size first (sparse: no data is written) and then filled at any row, so a table of any size
is written in bounded memory. Polars, pandas and DuckDB read it as it is.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray


class ColumnFile:
    """An Arrow file of `num_rows` rows (at least 1), opened for filling.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "table.arrow"
    >>> with ColumnFile(path, {"user": np.int32}, num_rows=3) as file:
    ...     file.write({"user": np.array([7, 8, 9], dtype=np.int32)}, first_row=0)
    >>> read_columns(path)["user"].tolist()
    [7, 8, 9]
    """

    def __init__(self, path: Path, dtypes: Mapping[str, DTypeLike], *, num_rows: int) -> None:
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._num_rows = num_rows
        _lay_out(path, self._dtypes, num_rows)
        with pa.memory_map(str(path)) as source:
            start = source.read_buffer(1).address
            source.seek(0)
            batch = pa.ipc.open_file(source).get_batch(0)
            self._offsets = {
                name: column.buffers()[1].address - start
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
        self._descriptor = os.open(path, os.O_WRONLY)

    def write(self, columns: Mapping[str, NDArray[Any]], *, first_row: int) -> None:
        """Write rows first_row, first_row + 1, ... of the given columns."""
        for name, values in columns.items():
            dtype = self._dtypes[name]
            data = np.ascontiguousarray(values, dtype=dtype).view(np.uint8).data
            if first_row + len(values) > self._num_rows:
                raise IndexError(f"{name}: rows end at {self._num_rows}")
            position = self._offsets[name] + first_row * dtype.itemsize
            while len(data):  # one call writes at most 2 GiB
                written = os.pwrite(self._descriptor, data, position)
                data, position = data[written:], position + written

    def close(self) -> None:
        """Finish the file; rows never written are zero."""
        os.close(self._descriptor)

    def __enter__(self) -> ColumnFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_columns(path: str | Path) -> dict[str, NDArray[Any]]:
    """Return the columns of a file made by `ColumnFile` as read-only, memory-mapped arrays."""
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
    return {
        name: column.to_numpy(zero_copy_only=True)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def _lay_out(path: Path, dtypes: Mapping[str, np.dtype[Any]], num_rows: int) -> None:
    """Write a valid Arrow file whose column data are holes.

    Arrow's writer is given columns that lie in reserved, untouched memory; the sink seeks where it
    is handed a piece of that memory, and writes everything else.
    """
    width = max(dtype.itemsize for dtype in dtypes.values())
    reserved = mmap.mmap(-1, num_rows * width)
    memory = pa.py_buffer(reserved)
    schema = pa.schema([pa.field(n, pa.from_numpy_dtype(d)) for n, d in dtypes.items()])
    arrays = [
        pa.Array.from_buffers(
            field.type,
            num_rows,
            [None, memory.slice(0, num_rows * dtypes[field.name].itemsize)],
            null_count=0,
        )
        for field in schema
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    sink = _SparseSink(path, memory)
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    sink.close()


class _SparseSink:
    """A file object that seeks over whatever lies in `memory` and writes the rest."""

    def __init__(self, path: Path, memory: pa.Buffer) -> None:
        self._file = path.open("wb")
        self._memory = memory
        self.closed = False

    def write(self, data: Any) -> int:
        start = self._memory.address
        if isinstance(data, pa.Buffer) and start <= data.address < start + self._memory.size:
            self._file.seek(data.size, os.SEEK_CUR)
            return data.size
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.truncate()
        self._file.close()
        self.closed = True
