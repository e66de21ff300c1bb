"""One user per line: "user item item ...", oldest item first, separated by white space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from ensue.data.blocks import Block, read_blocks, read_sample
from ensue.data.tables import Chunk, Table

_BYTES_PER_ROW = 6


def open_sequences(path: Path) -> Table:
    """Return the table (user, item) of a file of sequences; lines of one user are joined.

    Raises:
        DataError: the file has no rows.
    """
    read_sample(path).text()

    def read(names: Sequence[str], rows: int) -> Iterator[Chunk]:
        for block in read_blocks(path, max(rows * _BYTES_PER_ROW, 1 << 12)):
            yield _parse(block)

    return Table(path, ["user", "item"], read, is_ordered=True)


def _parse(block: Block) -> Chunk:
    lines = pl.Series("line", block.text().split("\n")).to_frame().with_row_index("index")
    tokens = pl.col("line").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    rows = (
        lines.with_columns(tokens.alias("line"))
        .select(
            "index",
            pl.col("line").list.first().alias("user"),
            pl.col("line").list.slice(1).alias("item"),
        )
        .filter(pl.col("item").list.len() > 0)
        .explode("item")
    )
    numbers = rows["index"]
    return Chunk(
        block.path,
        rows.select("user", "item"),
        lambda index: int(numbers[index]) + block.first_line,
    )
