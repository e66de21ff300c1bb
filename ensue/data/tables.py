"""What every reader of logs gives: the columns of a file, and its rows in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of a file, in input order.

    row_number: index in the chunk -> number of the row in the file, from 1 (the line number, in
        text).
    """

    path: Path
    rows: pl.DataFrame
    row_number: Callable[[int], int]

    def place(self, index: int) -> str:
        """Return where a row is, for messages."""
        return f"row {self.row_number(index)} of {self.path}"


# (columns, rows per chunk) -> chunks
ReadChunks = Callable[[Sequence[str], int], Iterator[Chunk]]


@dataclass(frozen=True)
class Table:
    """A log file that can be read from the start, any number of times.

    columns: names; "1", "2", ... where the file has no header.
    sample: the first rows, as text, where there is no header to tell the columns by.
    types: what a header of RecBole says of the columns: token, token_seq, float or float_seq.
    read: yields the rows of some columns; values of text formats are strings, "" or null where
        there is none.
    """

    path: Path
    columns: list[str]
    read: ReadChunks
    sample: list[list[str]] = field(default_factory=list)
    has_header: bool = True
    types: dict[str, str] = field(default_factory=dict)
    is_ordered: bool = False  # one line is a user's whole history
