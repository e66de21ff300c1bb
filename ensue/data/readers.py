"""Log files of any supported format as tables; the format is told by content, not by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ensue.data.blocks import open_bytes, read_first_lines
from ensue.data.columns import Roles, choose_roles, choose_roles_by_position
from ensue.data.delimited import open_delimited, sniff_delimiter
from ensue.data.json_lines import open_json_lines
from ensue.data.parquet import MAGIC, list_parquet, open_parquet
from ensue.data.sequences import open_sequences
from ensue.data.tables import Table
from ensue.errors import DataError, UsageError, did_you_mean

FORMATS = ("delimited", "json-lines", "parquet", "sequences")


def open_tables(
    inputs: Sequence[str | Path], *, format: str | None = None, delimiter: str | None = None
) -> list[Table]:
    """Return the tables in files and folders of Parquet files, in the order given.

    Args:
        format: one of FORMATS; by default each file's content tells.

    Raises:
        DataError: a file is missing or cannot be understood.
        UsageError: `format` is unknown.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"format {format!r} is unknown.{did_you_mean(format, FORMATS)}")
    tables = []
    for path in map(Path, inputs):
        if path.is_dir():
            tables += [open_parquet(file, root=path) for file in list_parquet(path)]
        else:
            tables.append(_open_table(path, format or _detect(path, delimiter), delimiter))
    return tables


def choose_table_roles(
    table: Table,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    labels: Sequence[str] = (),
    context: Sequence[str] = (),
) -> Roles:
    """Return the roles of a table's columns: as named by the caller, then by name or position.

    Raises:
        DataError: a role is missing or in doubt.
    """
    source = str(table.path)
    if table.has_header:
        return choose_roles(
            table.columns,
            source,
            user=user,
            item=item,
            time=time,
            labels=labels,
            context=context,
        )
    return choose_roles_by_position(
        table.sample, source, user=user, item=item, time=time, labels=labels, context=context
    )


def _open_table(path: Path, format: str, delimiter: str | None) -> Table:
    if format == "parquet":
        return open_parquet(path)
    if format == "json-lines":
        return open_json_lines(path)
    if format == "sequences":
        return open_sequences(path)
    return open_delimited(path, delimiter)


def _detect(path: Path, delimiter: str | None) -> str:
    """Return the format of a file after its first lines."""
    if delimiter is not None:
        return "delimited"
    with open_bytes(path) as file:
        if path.suffix in (".parquet", ".pq") or file.read(len(MAGIC)) == MAGIC:
            return "parquet"
    lines = read_first_lines(path)
    if lines[0].lstrip().startswith("{"):
        return "json-lines"
    return "sequences" if _look_like_sequences(lines) else "delimited"


def _look_like_sequences(lines: Sequence[str]) -> bool:
    """Tell whether lines are split by white space alone and differ in their number of tokens.

    A tenth of tab-delimited lines may differ before a table with broken rows is taken for
    sequences; names of columns in the first line say that it is a table.
    """
    delimiter = sniff_delimiter(lines)
    if delimiter not in (None, "\t", " "):
        return False
    if _has_usual_names(lines[0].split()):
        return False
    counts = Counter(len(line.split()) for line in lines)
    num_alike = counts.most_common(1)[0][1]
    if delimiter == "\t":
        return 10 * num_alike < 9 * len(lines)
    return len(counts) > 1


def _has_usual_names(names: Sequence[str]) -> bool:
    try:
        choose_roles([name.partition(":")[0] for name in names], "")
    except (DataError, UsageError):
        return False
    return True
