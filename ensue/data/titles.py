"""Titles of items, from a table beside the log: what a person reads in place of an id."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ensue.data.columns import recognize
from ensue.data.readers import open_tables
from ensue.data.tables import Table
from ensue.errors import DataError

_CHUNK_ROWS = 1 << 16


def add_titles(items: Path, source: str | Path) -> None:
    """Add the column `title` to items.arrow; null for an item the source does not have.

    Args:
        source: a file with an item column and a title column of usual names, or without header,
            then these are the first two; the first row of an item counts.

    Raises:
        DataError: the source cannot be used, or has none of the items.
    """
    table = open_tables([source])[0]
    if table.is_ordered:  # titles of several words look like histories of different lengths
        table = open_tables([source], format="delimited")[0]
    columns = _choose_columns(table)
    titles = pl.concat(
        chunk.rows.select(
            pl.col(columns[0]).cast(pl.String).alias("raw_id"),
            pl.col(columns[1]).cast(pl.String).alias("title"),
        )
        for chunk in table.read(columns, _CHUNK_ROWS)
    ).unique("raw_id", keep="first")
    known = pl.read_ipc(items).join(titles, on="raw_id", how="left", maintain_order="left")
    if known["title"].null_count() == len(known):
        raise DataError(
            f"the table of items must have items of the log; {source} has none of them in its "
            f"column {columns[0]!r}."
        )
    known.write_ipc(items)


def _choose_columns(table: Table) -> list[str]:
    """Return the item column and the title column."""
    if table.has_header:
        return [recognize(table.columns, role, str(table.path)) for role in ("item", "title")]
    if len(table.columns) < 2:
        raise DataError(f"a table of items has an item and a title; {table.path} has one column.")
    return table.columns[:2]
