"""Parquet: a file, or a folder of files whose folder names may hold columns ("day=2020-01-01")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ensue.data.tables import Chunk, Table
from ensue.errors import DataError

MAGIC = b"PAR1"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def open_parquet(path: Path, root: Path | None = None) -> Table:
    """Return the table in a Parquet file.

    Args:
        root: the folder that the caller named; folders below it called NAME=VALUE are columns.

    Raises:
        DataError: it is no Parquet file, or an incomplete one.
    """
    folders = path.relative_to(root).parts[:-1] if root is not None else ()
    pairs = [folder.partition("=") for folder in folders]
    in_path = {
        name: None if value == _HIVE_NULL else unquote(value)
        for name, equals, value in pairs
        if equals
    }
    with _open(path) as file:
        in_file = [name for name in file.schema_arrow.names if name not in in_path]

    def read(names: Sequence[str], rows: int) -> Iterator[Chunk]:
        first = 0
        with _open(path) as file:
            stored = [name for name in names if name in in_file]
            try:
                for batch in file.iter_batches(batch_size=rows, columns=stored):
                    frame = pl.from_arrow(pa.Table.from_batches([batch]))
                    assert isinstance(frame, pl.DataFrame)
                    frame = frame.with_columns(
                        pl.lit(in_path[n], dtype=pl.String).alias(n) for n in names if n in in_path
                    )
                    yield Chunk(path, frame, partial(_row_number, first))
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"a Parquet file must be complete; {path} cannot be read after row {first}: "
                    f"{_first_line(error)}"
                ) from None

    return Table(path, [*in_file, *in_path], read)


def list_parquet(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and below, in the order of their paths.

    Files and folders whose names start with "." or "_" are notes of other programs.

    Raises:
        DataError: there are none.
    """
    paths = [
        path
        for pattern in ("*.parquet", "*.pq")
        for path in folder.rglob(pattern)
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]
    if not paths:
        raise DataError(f"a folder of input must hold .parquet files; {folder} has none.")
    return sorted(paths)


def _row_number(first: int, index: int) -> int:
    return first + index + 1


def _open(path: Path) -> pq.ParquetFile:
    try:
        # A small read buffer, so that a large row group is not held in memory as a whole.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"an input must be a readable Parquet file; {path}: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
