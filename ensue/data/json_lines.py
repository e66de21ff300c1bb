"""JSON lines: one object per line; only the columns asked for are kept."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from ensue.data.blocks import Block, read_blocks, read_sample
from ensue.data.tables import Chunk, Table
from ensue.errors import DataError

_BYTES_PER_ROW = 128


def open_json_lines(path: Path) -> Table:
    """Return the table in a file of JSON objects; its columns are the keys of the first ones.

    Raises:
        DataError: the file has no rows, or one of the first is not a JSON object.
    """
    keys: dict[str, None] = {}
    for _, row in itertools.islice(_records(read_sample(path)), 1000):
        keys.update(dict.fromkeys(row))
    columns = list(keys)

    def read(names: Sequence[str], rows: int) -> Iterator[Chunk]:
        for block in read_blocks(path, max(rows * _BYTES_PER_ROW, 1 << 12)):
            if block.data and not block.data.isspace():
                yield _parse(block, names)

    return Table(path, columns, read)


def _parse(block: Block, names: Sequence[str]) -> Chunk:
    try:
        # As text, so that an id may be 1 in one row and "1" in another.
        frame = pl.read_ndjson(io.BytesIO(block.data), schema=dict.fromkeys(names, pl.String))
    except pl.exceptions.PolarsError as error:
        for _ in _records(block):  # raises at the row to blame
            pass
        raise DataError(
            f"{block.path} must hold one JSON object a line; "
            f"the rows from {block.first_line} on cannot be read: {error}."
        ) from None
    return Chunk(
        block.path,
        frame,
        lambda index: next(itertools.islice(_records(block), index, None))[0],
    )


def _records(block: Block) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number in the file, object) of each non-blank line."""
    for number, line in block.lines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"every row must be a JSON object; row {number} of {block.path} is not: "
                f"{error.msg}. Repair or remove that row."
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"every row must be a JSON object; row {number} of {block.path} is a "
                f"{type(row).__name__}. Repair or remove that row."
            )
        yield number, row
