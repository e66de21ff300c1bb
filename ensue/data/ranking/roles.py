"""What the columns of a table of rows are: features, ids, times, labels, or nothing.

The caller's word counts first. Of the other columns: those of targets and weights are no features,
nor are columns with the usual name of a label (what happened after the row was shown would give
the answer away); the time is no feature; user and item are those with a usual name, where there is
one, and are categorical; the first rows tell the rest by the rules of data.feature_inference, but
text counts as categorical unless nine tenths of the values differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from ensue.data.columns import find_usual, recognize
from ensue.data.feature_inference import find_separator
from ensue.data.feature_roles import Feature, Role, choose_features, parse_roles
from ensue.data.ranking.schema import RankingKind
from ensue.data.tables import Table
from ensue.errors import UsageError, did_you_mean

Scale = Literal["auto", "log", "plain"]
_SCALES: dict[str, Scale] = {"log": "log", "plain": "plain"}
_DISTINCT_SHARE = 0.9
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class RowFeature:
    """A feature to read of every row.

    sources, separator, reason: see data.feature_roles.Feature.
    vocabulary: name of the column whose values the codes stand for; "" for numbers and vectors.
    scale: whether a number's logarithm is taken; "auto" lets the training rows tell.
    """

    name: str
    kind: RankingKind
    sources: tuple[str, ...]
    separator: str | None
    vocabulary: str
    reason: str
    scale: Scale = "auto"


@dataclass(frozen=True)
class RowRoles:
    """The columns of a table of rows by role; unused: column -> why it is no feature."""

    user: str | None
    item: str | None
    time: str | None
    group: str | None
    features: tuple[RowFeature, ...]
    unused: dict[str, str]


@dataclass(frozen=True)
class Told:
    """What the caller says of the columns of rows.

    features: column -> role, as text.
    taken: columns of targets and weights -> what they are.
    """

    user: str | None
    item: str | None
    time: str | None
    features: Mapping[str, str]
    taken: Mapping[str, str]


def expand_ranges(features: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """Return the roles with "2-14" in place of the columns 2, 3, ..., 14 spelled out.

    >>> expand_ranges({"2-3": "numeric", "3": "ignore"}, ["1", "2", "3"])
    {'2': 'numeric', '3': 'ignore'}
    """
    spelled: dict[str, str] = {}
    for name, role in features.items():
        match = _RANGE.fullmatch(name)
        if match and name not in columns and match[1] in columns and match[2] in columns:
            spelled.update({str(n): role for n in range(int(match[1]), int(match[2]) + 1)})
    return spelled | {
        name: role
        for name, role in features.items()
        if name in columns or not _RANGE.fullmatch(name)
    }


def choose_row_roles(table: Table, sample: pl.DataFrame, told: Told) -> RowRoles:
    """Return what the columns of a table of rows are.

    Args:
        sample: its first rows, all columns.

    Raises:
        DataError: the column of times is in doubt.
        UsageError: roles contradict each other, or a column does not exist.
    """
    columns = table.columns
    for name in (told.user, told.item, told.time):
        if name is not None and name not in columns:
            raise UsageError(
                f"column {name!r} is not in {table.path}.{did_you_mean(name, columns)}"
            )
    groups = [name for name, role in told.features.items() if role == "group"]
    if len(groups) > 1:
        raise UsageError(f"one column has the role group; got {groups}.")
    named = {name: role for name, role in told.features.items() if role != "group"}
    for name in named:
        if name in told.taken:
            raise UsageError(
                f"a column has one role; {name!r} {told.taken[name]} and is told to be "
                f"{named[name]!r}."
            )
    free = [name for name in columns if name not in named and name not in told.taken]
    user, item = _find_ids(table, told, named)
    time = told.time
    if time is None and table.has_header and find_usual(free, "time"):
        remedy = "Pass --time NAME (time=...), or --feature NAME=ROLE for what is no time."
        time = recognize(free, "time", str(table.path), remedy=remedy)
    unused = {n: why for n, why in told.taken.items() if n in columns}
    if time is not None and time not in named:
        unused[time] = "is the time"
    for name in find_usual(free, "label") if table.has_header else ():
        if name not in (user, item, time, *groups):
            unused[name] = "named like a label; --feature NAME=ROLE makes it a feature"
    names = [name for name in columns if name not in unused]
    features, left_out = _choose(table, sample, names, named, {user, item})
    group = groups[0] if groups else user
    return RowRoles(user, item, time, group, features, unused | left_out)


def _find_ids(table: Table, told: Told, named: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the columns of users and of items: as told, or the one with a usual name."""
    if not table.has_header:
        return told.user, told.item
    maybe = [
        name
        for name in table.columns
        if name not in told.taken and named.get(name, "ignore") in ("categorical", "ignore")
    ]
    user = told.user or _usual(maybe, "user")
    return user, told.item or _usual([name for name in maybe if name != user], "item")


def _usual(names: Sequence[str], role: str) -> str | None:
    found = find_usual(names, role)
    return found[0] if len(found) == 1 else None


def _choose(
    table: Table,
    sample: pl.DataFrame,
    names: Sequence[str],
    named: Mapping[str, str],
    ids: set[str | None],
) -> tuple[tuple[RowFeature, ...], dict[str, str]]:
    """Return the features among columns of these names, and why the others are none."""
    scales = {n: _SCALES[_scale(role)] for n, role in named.items() if _scale(role) in _SCALES}
    histories = {n: role for n, role in named.items() if role.partition(":")[0] == "history"}
    plain = {n: r for n, r in named.items() if n not in histories}
    given = parse_roles({n: "numeric" if n in scales else role for n, role in plain.items()})
    for name, role in given.items():
        if role.kind in ("id", "title"):
            raise UsageError(
                f"rows have no {role.kind}; got {role.kind!r} for {name!r}. Say which columns are "
                "users and items with --user and --item (user=..., item=...)."
            )
    given.update({name: Role("categorical") for name in names if name in ids and name not in named})
    found, unused = choose_features(
        [name for name in names if name not in histories],
        sample,
        pl.int_range(len(sample), eager=True),
        given,
        types=table.types,
        distinct_share=_DISTINCT_SHARE,
    )
    rows = {one.name: _row_feature(one, scales.get(one.name, "auto"), ids) for one in found}
    coded = [name for name, one in rows.items() if one.kind == "categorical"]
    for name, text in histories.items():
        rows[name] = _history(name, text, sample[name], table.types.get(name), coded)
    order = {name: number for number, name in enumerate(names)}
    ordered = sorted(rows.values(), key=lambda one: order[one.sources[0]])
    return tuple(ordered), unused


def _scale(role: str) -> str:
    kind, _, scale = role.partition(":")
    return scale if kind == "numeric" else ""


def _row_feature(feature: Feature, scale: Scale, ids: set[str | None]) -> RowFeature:
    has_values = feature.kind in ("categorical", "multi")
    row = RowFeature(
        feature.name, feature.kind, feature.sources, feature.separator,
        feature.name if has_values else "", feature.reason, scale,
    )  # fmt: skip
    return replace(row, reason="an id") if feature.name in ids else row


def _history(
    name: str, role: str, values: pl.Series, declared: str | None, coded: Sequence[str]
) -> RowFeature:
    """Return the feature of a column with the role "history[:COLUMN[:SEPARATOR]]"."""
    _, _, rest = role.partition(":")
    column, _, separator = rest.partition(":")
    if column and column not in coded:
        raise UsageError(
            f"the values of a history are those of a categorical column; {column!r} is none."
            + did_you_mean(column, coded)
        )
    found = separator or find_separator(values, "multi", declared)
    return RowFeature(name, "history", (name,), found, column or name, "as told")
