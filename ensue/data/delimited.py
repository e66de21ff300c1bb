"""CSV and its relatives: any delimiter, header or not, RecBole's typed headers."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import csv as arrow_csv

from ensue.data.blocks import Block, read_blocks, read_first_lines
from ensue.data.tables import Chunk, Table
from ensue.errors import DataError

DELIMITERS = ("::", "\t", ",", ";", "|", " ")
_BYTES_PER_ROW = 32
_SUBSTITUTE = "\x1f"  # stands for a delimiter of several characters, which no CSV reader takes
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


def open_delimited(path: Path, delimiter: str | None = None) -> Table:
    """Return the table in a delimited text file; its delimiter is sniffed where none is given.

    A first line with a number among its fields is data: then the file has no header and its
    columns are "1", "2", ...

    Raises:
        DataError: the file has no rows, or its delimiter is in doubt.
    """
    lines = read_first_lines(path)
    delimiter = delimiter or sniff_delimiter(lines)
    if delimiter is None:
        raise DataError(
            f"rows need a delimiter between columns; none of {list(DELIMITERS)} splits the rows of "
            f"{path} alike. Pass --delimiter (delimiter=...)."
        )
    sample = _split(lines, delimiter)
    has_header = not any(_is_number(value) for value in sample[0])
    if has_header:
        named = [_split_type(name.strip()) for name in sample[0]]
        columns, types = [name for name, _ in named], {n: kind for n, kind in named if kind}
        if len(set(columns)) < len(columns):
            raise DataError(f"column names must differ; the header of {path} is {columns}.")
    else:
        columns, types = [str(number) for number in range(1, len(sample[0]) + 1)], {}

    def read(names: Sequence[str], rows: int) -> Iterator[Chunk]:
        quoted = _is_quoted(delimiter)
        blocks = read_blocks(path, max(rows * _BYTES_PER_ROW, 1 << 12), quoted=quoted)
        is_first = has_header
        for block in blocks:
            if is_first:
                block, is_first = _without_header(block), False
            if block.data and not block.data.isspace():
                yield _parse(block, delimiter, columns, names)

    return Table(path, columns, read, sample if not has_header else [], has_header, types)


def sniff_delimiter(lines: Sequence[str]) -> str | None:
    """Return the delimiter that splits most lines into the same number of fields, above 1.

    >>> sniff_delimiter(["1::2::3", "4::5::6"]), sniff_delimiter(["a b c", "d", "e f"])
    ('::', None)
    """
    for delimiter in DELIMITERS:
        rows = _split(lines, delimiter)
        count, times = Counter(map(len, rows)).most_common(1)[0]
        if count > 1 and 2 * times > len(rows):
            return delimiter
    return None


def _split(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    if not _is_quoted(delimiter):
        return [line.split(delimiter) for line in lines]
    return list(csv.reader(lines, delimiter=delimiter))


def _is_quoted(delimiter: str) -> bool:
    """Tell whether values may be quoted: not where the delimiter is never part of a value."""
    return delimiter in (",", ";", "|")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return value.strip().lower() not in ("nan", "inf", "infinity")


def _split_type(name: str) -> tuple[str, str]:
    """Return the name before RecBole's ":token" and the like, and that type; "" for none."""
    before, colon, kind = name.rpartition(":")
    return (before, kind) if colon and kind in _RECBOLE_TYPES else (name, "")


def _without_header(block: Block) -> Block:
    """Return the block after its first non-blank line."""
    start = len(block.data) - len(block.data.lstrip(b"\r\n"))
    end = block.data.find(b"\n", start) + 1 or len(block.data)
    return Block(block.path, block.data[end:], block.first_line + block.data.count(b"\n", 0, end))


def _parse(block: Block, delimiter: str, columns: list[str], names: Sequence[str]) -> Chunk:
    data, separator = block.data, delimiter
    if len(delimiter) > 1:
        data, separator = data.replace(delimiter.encode(), _SUBSTITUTE.encode()), _SUBSTITUTE
    quoted = _is_quoted(delimiter)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(column_names=columns, block_size=1 << 22),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted and b'"' in data,
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(names), column_types={name: pa.string() for name in names}
            ),
        )
    except pa.ArrowInvalid as error:
        raise _explain(block, delimiter, columns, str(error)) from None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return Chunk(block.path, frame, lambda index: _line_of(block, delimiter, index))


def _explain(block: Block, delimiter: str, columns: list[str], reason: str) -> DataError:
    """Return the error that names the first row the parser could not take."""
    try:
        for line, fields in _records(block, delimiter):
            if len(fields) != len(columns):
                return DataError(
                    f"every row must have {len(columns)} columns, as the first has; row {line} of "
                    f"{block.path} has {len(fields)}. Repair or remove that row."
                )
    except DataError as error:
        return error
    return DataError(
        f"{block.path} must be a table delimited by {delimiter!r}; "
        f"the rows from {block.first_line} on cannot be read: {reason}."
    )


def _line_of(block: Block, delimiter: str, index: int) -> int:
    return next(itertools.islice(_records(block, delimiter), index, None))[0]


def _records(block: Block, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number in the file, fields) of each non-blank row, slowly: for messages."""
    if not _is_quoted(delimiter):
        for number, line in block.lines():
            if text := line.rstrip("\r\n"):
                yield number, text.split(delimiter)
        return
    reader = csv.reader((line for _, line in block.lines()), delimiter=delimiter)
    first = block.first_line
    for fields in reader:
        if fields:
            yield first, fields
        first = block.first_line + reader.line_num
