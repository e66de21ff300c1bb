"""Which columns of an edge table hold the two entities, the weight and the time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensue.data.columns import find_usual, plain_name
from ensue.data.tables import Table
from ensue.errors import DataError, UsageError, did_you_mean

_NAMES = {
    "weight": """weight weights count counts value values score scores strength tfidf frequency
        freq""",
    # Beside the usual names of users: what the other side of a friendship is called.
    "user": """friend friendid follower followerid followee followeeid following trustor trustorid
        truster trusterid trustee trusteeid""",
}
_KNOWN = {role: frozenset(names.split()) for role, names in _NAMES.items()}
_NAME = r"[A-Za-z0-9_-]+"  # of graphs and entity types: they become names of files and settings


@dataclass(frozen=True)
class EdgeColumns:
    """The columns of an edge table.

    source, target: of the two sides; types: of their entities.
    """

    source: str
    target: str
    types: tuple[str, str]
    weight: str | None = None
    time: str | None = None

    @property
    def needed(self) -> list[str]:
        """The input columns to read, each once."""
        return list(dict.fromkeys(self.as_dict().values()))

    def as_dict(self) -> dict[str, str]:
        """Return role -> input column."""
        weights = {"weight": self.weight} if self.weight else {}
        times = {"time": self.time} if self.time else {}
        return {"source": self.source, "target": self.target, **weights, **times}


def check_name(name: str, what: str) -> None:
    """Check the name of a graph or of an entity type.

    Raises:
        UsageError: it cannot be one.
    """
    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"{what} is called with letters, digits, - and _ alone; got {name!r}. Name it with "
            "--graph NAME=FILE, and its types with --graph-columns NAME=COLUMN:TYPE,COLUMN:TYPE."
        )


def choose_edge_columns(
    name: str, table: Table, given: str | None, log_columns: Mapping[str, str]
) -> EdgeColumns:
    """Return what the columns of an edge table are: as the caller says, or by their names.

    By name, a column called as the log's user or item column, or with a usual name of one, has that
    type; a column with a usual name of a time or a weight is that; and one that is left is of a
    type called as the column.

    Args:
        name: of the graph, for messages.
        given: "COLUMN[:TYPE],COLUMN[:TYPE][,weight=COLUMN][,time=COLUMN]", or None.
        log_columns: "user" and "item" -> column of the log.

    Raises:
        DataError: the columns are not clear, or one is missing.
        UsageError: `given` has no meaning, or a type cannot be called so.
    """
    if given is not None:
        columns = _parse(name, given, table.columns, log_columns)
    else:
        columns = _recognize(name, table, log_columns)
    for column in columns.needed:
        if column not in table.columns:
            raise DataError(
                f"column {column!r} of the graph {name!r} is not in {table.path}."
                f"{did_you_mean(column, table.columns)}"
            )
    if columns.source == columns.target:
        raise UsageError(
            f"the two sides of a graph are two columns; {name!r} has {columns.source!r} for both."
        )
    for kind in columns.types:
        check_name(kind, f"an entity type of the graph {name!r}")
    return columns


def _parse(
    name: str, given: str, columns: Sequence[str], log_columns: Mapping[str, str]
) -> EdgeColumns:
    sides: list[tuple[str, str]] = []
    others: dict[str, str] = {}
    for part in (part.strip() for part in given.split(",")):
        role, equals, column = part.partition("=")
        if equals and role in ("weight", "time") and role not in others:
            others[role] = column
            continue
        column, _, kind = part.partition(":")
        sides.append((column, kind or _type(column, columns, log_columns)))
    if len(sides) != 2:
        raise UsageError(
            "the columns of a graph are COLUMN[:TYPE],COLUMN[:TYPE][,weight=COLUMN][,time=COLUMN], "
            f"as in user_id,friend_id:user; got {given!r} for {name!r}."
        )
    (source, first), (target, second) = sides
    return EdgeColumns(source, target, (first, second), **others)


def _recognize(name: str, table: Table, log_columns: Mapping[str, str]) -> EdgeColumns:
    remedy = (
        f"Say what they are with --graph-columns '{name}=COLUMN[:TYPE],COLUMN[:TYPE]"
        f"[,weight=COLUMN][,time=COLUMN]' (graph_columns={{{name!r}: ...}})."
    )
    if not table.has_header:
        raise DataError(
            f"the columns of the graph {name!r} have no names in {table.path}, whose first row is "
            f"{list(table.sample[0])}. {remedy}"
        )
    found = {
        "time": find_usual(table.columns, "time"),
        "weight": [column for column in table.columns if plain_name(column) in _KNOWN["weight"]],
    }
    for role, columns in found.items():
        if len(columns) > 1:
            raise DataError(
                f"the {role} column of the graph {name!r} must be clear; {columns} could all be "
                f"it in {table.path}. {remedy}"
            )
    left = [
        column for column in table.columns if column not in [c for f in found.values() for c in f]
    ]
    if len(left) != 2:
        raise DataError(
            f"a graph has two columns of entities; {table.path} of {name!r} has {left}. {remedy}"
        )
    first, second = (_type(column, table.columns, log_columns) for column in left)
    others = {role: columns[0] for role, columns in found.items() if columns}
    return EdgeColumns(left[0], left[1], (first, second), **others)


def _type(column: str, columns: Sequence[str], log_columns: Mapping[str, str]) -> str:
    """Return the entity type of a column by its name.

    A usual name counts only where the table has no column called as in the log: of a log of tracks,
    "track" and "artist" are an item and a type of its own.
    """
    for kind, known in log_columns.items():
        if column == known:
            return kind
    if plain_name(column) in _KNOWN["user"]:
        return "user"
    without_number = re.sub(r"[_ -]?\d+$", "", column)
    for kind, known in log_columns.items():
        if known not in columns and find_usual([without_number], kind):
            return kind
    return column
