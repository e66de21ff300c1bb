"""The input files of a ranking dataset: tables of rows, with the same columns in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ensue.data.inputs import PathOrPaths, paths_by_part
from ensue.data.readers import open_tables
from ensue.data.tables import Table
from ensue.errors import DataError

SAMPLE_ROWS = 10_000


@dataclass(frozen=True)
class RowSource:
    """A table of rows, and the number of the part that they are for."""

    table: Table
    part: int


def open_row_sources(
    inputs: PathOrPaths | Mapping[str, PathOrPaths],
    *,
    format: str | None = None,
    delimiter: str | None = None,
) -> list[RowSource]:
    """Return the tables of rows, those for training first.

    Raises:
        DataError: a file cannot be used, or files differ in their columns.
        UsageError: a part that does not exist has files, or train has none.
    """
    opened = []
    for number, paths in paths_by_part(inputs):
        for path in paths:
            tables = open_tables([path], format=format, delimiter=delimiter)
            if tables and tables[0].is_ordered and format is None:  # values of several words
                tables = open_tables([path], format="delimited", delimiter=delimiter)
            opened += [RowSource(table, number) for table in tables]
    first = opened[0].table
    for one in opened:
        if set(one.table.columns) != set(first.columns):
            raise DataError(
                f"all inputs must have the same columns; {first.path} has {first.columns} and "
                f"{one.table.path} has {one.table.columns}."
            )
        if one.table.is_ordered:
            raise DataError(
                f"a ranking dataset needs a table with labels; {one.table.path} has a user and "
                "items in each line."
            )
    return opened


def sample_rows(sources: Sequence[RowSource]) -> pl.DataFrame:
    """Return the first rows, all columns.

    Raises:
        DataError: there is none.
    """
    parts: list[pl.DataFrame] = []
    columns = sources[0].table.columns
    for source in sources:
        for chunk in source.table.read(columns, SAMPLE_ROWS):
            parts.append(chunk.rows.head(SAMPLE_ROWS - sum(map(len, parts))))
            if sum(map(len, parts)) >= SAMPLE_ROWS:
                return pl.concat(parts, how="vertical_relaxed")
    if not sum(map(len, parts)):
        raise DataError(f"an input needs rows; {sources[0].table.path} has none.")
    return pl.concat(parts, how="vertical_relaxed")


def path_texts(inputs: PathOrPaths | Mapping[str, PathOrPaths]) -> list[str]:
    """Return the files and folders as the caller gave them."""
    groups = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return [
        str(path)
        for group in groups
        for path in ([group] if isinstance(group, str | Path) else group)
    ]
