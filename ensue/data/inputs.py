"""The input files of one dataset: their tables, with the same columns in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from ensue.data.clean import find_text_columns, is_numeric
from ensue.data.columns import Roles
from ensue.data.readers import choose_table_roles, open_tables
from ensue.data.splits import PARTS
from ensue.data.tables import Table
from ensue.errors import DataError, UsageError

PathOrPaths = str | Path | Sequence[str | Path]
_SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class Choice:
    """What the caller says about the columns; see `prepare`."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    labels: Sequence[str] = ()
    context: Sequence[str] = ()


@dataclass(frozen=True)
class Input:
    """A table, what its columns are, and the number of the split its rows are for.

    left_out: columns with the name of a label that hold text.
    """

    table: Table
    roles: Roles
    part: int
    left_out: tuple[str, ...] = ()


def open_inputs(
    inputs: PathOrPaths | Mapping[str, PathOrPaths],
    choice: Choice,
    *,
    format: str | None = None,
    delimiter: str | None = None,
) -> list[Input]:
    """Return the inputs, in order; all have the same roles.

    The first rows of the first one tell which context columns are text, and which columns with the
    name of a label hold none.

    Raises:
        DataError: a file cannot be used, or files differ in their columns.
        UsageError: a split that does not exist has files, or train has none.
    """
    opened = []
    for number, paths in paths_by_part(inputs):
        for table in open_tables(paths, format=format, delimiter=delimiter):
            opened.append(Input(table, _choose(table, choice), number))
    first = opened[0]
    for other in opened:
        if other.roles.as_dict().keys() != first.roles.as_dict().keys():
            raise DataError(
                f"all inputs must have the same columns; {first.table.path} has "
                f"{first.roles.as_dict()} and {other.table.path} has {other.roles.as_dict()}. "
                "Name them with --user, --item, --time and --label."
            )
    sample = _sample(first)
    text = find_text_columns(sample, first.roles)
    left_out: tuple[str, ...] = ()
    if not choice.labels:
        labels = first.roles.labels.items()
        left_out = tuple(name for name, column in labels if not is_numeric(sample[column]))
    return [
        replace(one, roles=_with_types(one.roles, text, left_out), left_out=left_out)
        for one in opened
    ]


def paths_by_part(
    inputs: PathOrPaths | Mapping[str, PathOrPaths],
) -> list[tuple[int, Sequence[str | Path]]]:
    """Return the number of each part, and the paths of its files; one input is for training.

    Raises:
        UsageError: a part that does not exist has files, or train has none.
    """
    by_part = inputs if isinstance(inputs, Mapping) else {"train": inputs}
    for part in by_part:
        if part not in PARTS:
            raise UsageError(f"input files are for {', '.join(PARTS)}; got {part!r}.")
    given = [by_part.get(part, []) for part in PARTS]
    listed = [[paths] if isinstance(paths, str | Path) else paths for paths in given]
    if not listed[0]:
        raise UsageError("at least one input file is needed for training; none is given.")
    return list(enumerate(listed))


def describe_inputs(inputs: Sequence[Input]) -> str:
    """Return a sentence on what the columns are taken for."""
    table, roles = inputs[0].table, inputs[0].roles
    columns = [f"{role} is {column!r}" for role, column in roles.as_dict().items()]
    if table.is_ordered:
        how = "one user per line, oldest item first"
    elif table.has_header:
        how = ", ".join(columns)
    else:
        how = "no header, so columns by position: " + ", ".join(columns)
    if roles.time is None and not table.is_ordered:
        how += "; no time, so rows count as oldest first"
    if left_out := inputs[0].left_out:
        how += f"; {', '.join(map(repr, left_out))} left out, no numbers"
    more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
    return f"Reading {table.path}{more}: {how}."


def _choose(table: Table, choice: Choice) -> Roles:
    return choose_table_roles(
        table,
        user=choice.user,
        item=choice.item,
        time=choice.time,
        labels=choice.labels,
        context=choice.context,
    )


def _sample(first: Input) -> pl.DataFrame:
    needed = first.roles.needed
    for chunk in first.table.read(needed, _SAMPLE_ROWS):
        return chunk.rows.head(_SAMPLE_ROWS)
    return pl.DataFrame(schema=dict.fromkeys(needed, pl.String))


def _with_types(roles: Roles, text_context: frozenset[str], left_out: tuple[str, ...]) -> Roles:
    labels = {name: column for name, column in roles.labels.items() if name not in left_out}
    return replace(roles, labels=labels, text_context=text_context)
