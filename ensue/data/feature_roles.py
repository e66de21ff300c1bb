"""What the columns of a table of items or users are: told by the caller, or by the first rows.

Columns NAME_0 .. NAME_n or NAME_1 .. NAME_n of numbers, not all of them whole, are one vector NAME;
a column without a name is ignored; data.feature_inference has the rules for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from ensue.data.clean import is_numeric, to_float
from ensue.data.columns import find_usual, recognize
from ensue.data.feature_inference import find_separator, has_fraction, infer
from ensue.data.feature_store import Side
from ensue.data.feature_values import column_run
from ensue.data.features import FeatureKind
from ensue.data.tables import Table
from ensue.errors import UsageError, did_you_mean

ROLES = ("id", "title", "categorical", "multi", "numeric", "vector", "ignore")


@dataclass(frozen=True)
class Role:
    """What the caller says a column is.

    separator: between the values of text, where the caller says that too.
    """

    kind: str
    separator: str | None = None


@dataclass(frozen=True)
class Feature:
    """A feature to read: its columns, what splits its text, and why it is of this kind."""

    name: str
    kind: FeatureKind
    sources: tuple[str, ...]
    separator: str | None
    reason: str


@dataclass(frozen=True)
class TableRoles:
    """The columns of a table by role; unused: column -> why it is no feature."""

    id: str
    title: str | None
    features: tuple[Feature, ...]
    unused: dict[str, str] = field(default_factory=dict)

    @property
    def needed(self) -> list[str]:
        """The columns to read, each once."""
        titles = [self.title] if self.title else []
        sources = [source for feature in self.features for source in feature.sources]
        return list(dict.fromkeys([self.id, *titles, *sources]))


def parse_roles(features: Mapping[str, str]) -> dict[str, Role]:
    """Return the roles in {"genres": "multi:;", "year": "numeric"}.

    Raises:
        UsageError: a role is unknown.
    """
    roles = {}
    for name, text in features.items():
        kind, colon, separator = text.partition(":")
        if kind not in ROLES:
            raise UsageError(
                f"the role of {name!r} is unknown; got {text!r}." + did_you_mean(kind, ROLES)
            )
        if colon and (kind not in ("multi", "vector") or not separator):
            raise UsageError(
                f"a separator follows the roles multi and vector, as in {name}=multi:;; got "
                f"{text!r}."
            )
        roles[name] = Role(kind, separator or None)
    return roles


def choose_table_features(
    table: Table,
    sample: pl.DataFrame,
    side: Side,
    given: Mapping[str, Role],
    log_column: str | None = None,
) -> TableRoles:
    """Return what the columns of a table are.

    Args:
        sample: its first rows, all columns.
        log_column: what the log calls its users or items, to tell the column of ids by.
        given: roles of columns, or of runs of columns, by name; other names are not looked at.

    Raises:
        DataError: the column of ids or of titles is in doubt.
        UsageError: roles contradict each other.
    """
    of_role = {
        kind: [n for n in table.columns if n in given and given[n].kind == kind]
        for kind in ("id", "title", "ignore")
    }
    for kind in ("id", "title"):
        if len(of_role[kind]) > 1:
            raise UsageError(f"one column has the role {kind}; got {of_role[kind]}.")
    if of_role["title"] and side == "users":
        raise UsageError(
            f"items have titles, users have none; got the role title for {of_role['title'][0]!r}."
        )
    id_column = _choose_id(table, side, of_role["id"], given, log_column)
    free = [name for name in table.columns if name != id_column]
    title = _choose_title(table, side, free, of_role["title"], given)
    free = [name for name in free if name != title]
    features, unused = choose_features(free, sample, sample[id_column], given, types=table.types)
    told = dict.fromkeys(of_role["ignore"], "as told")
    return TableRoles(id_column, title, features, told | unused)


def choose_features(
    names: Sequence[str],
    sample: pl.DataFrame,
    ids: pl.Series,
    given: Mapping[str, Role],
    *,
    types: Mapping[str, str] | None = None,
    distinct_share: float = 0.5,
) -> tuple[tuple[Feature, ...], dict[str, str]]:
    """Return the features among columns of a table, and why each other column is none.

    Args:
        sample: the first rows; ids: [n], what they are about.
        given: roles of columns, or of runs of columns, by name; other names are not looked at.
        types: what a header of RecBole says of the columns.
        distinct_share: of the values; a column of more distinct ones tells rows apart and is left
            out.

    Raises:
        UsageError: a role is given to columns that cannot have it together.
    """
    runs = _find_runs(names, sample, given)
    features = []
    unused: dict[str, str] = {}
    for name in _names(names, runs):
        if name in given and given[name].kind == "ignore":
            unused.update(dict.fromkeys(runs.get(name, [name]), "as told"))
        elif name in runs:
            reason = "as told" if name in given else f"numbers in {len(runs[name])} columns"
            features.append(Feature(name, "vector", tuple(runs[name]), None, reason))
        elif not name and name not in given:  # what pandas writes of its index
            unused[name] = "has no name"
        else:
            declared = (types or {}).get(name)
            found = _decide(name, sample[name], ids, declared, given.get(name), distinct_share)
            if isinstance(found, Feature):
                features.append(found)
            else:
                unused[name] = found
    return tuple(features), unused


def _choose_id(
    table: Table,
    side: Side,
    told: Sequence[str],
    given: Mapping[str, Role],
    log_column: str | None,
) -> str:
    if told:
        return told[0]
    if not table.has_header:
        return table.columns[0]
    free = [name for name in table.columns if name not in given]
    if log_column in free:
        return str(log_column)
    role = side.removesuffix("s")
    if "id" in free and not find_usual(free, role):
        return "id"
    remedy = "Pass --feature NAME=id (features={'NAME': 'id'})."
    return recognize(free, role, str(table.path), remedy=remedy)


def _choose_title(
    table: Table, side: Side, free: Sequence[str], told: Sequence[str], given: Mapping[str, Role]
) -> str | None:
    if told or side == "users":
        return told[0] if told else None
    open_names = [name for name in free if name not in given]
    if not table.has_header:
        second = table.columns[1:2]
        return second[0] if second and second[0] in open_names else None
    if not find_usual(open_names, "title"):
        return None
    remedy = "Pass --feature NAME=title (features={'NAME': 'title'})."
    return recognize(open_names, "title", str(table.path), remedy=remedy)


def _find_runs(
    free: Sequence[str], sample: pl.DataFrame, given: Mapping[str, Role]
) -> dict[str, list[str]]:
    """Return name -> columns of each vector in several columns, in the order of their numbers.

    Raises:
        UsageError: a role is given to columns that cannot have it together.
    """
    by_name: dict[str, dict[int, str]] = {}
    for column in free:
        if column not in given and (found := column_run(column)):
            by_name.setdefault(found[0], {})[found[1]] = column
    runs = {}
    for name, columns in by_name.items():
        numbers = sorted(columns)
        ordered = [columns[number] for number in numbers]
        is_run = numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
        is_run = is_run and len(numbers) > 1 and name not in free
        if is_run and (name in given or _are_parts(sample.select(ordered))):
            runs[name] = ordered
        if name not in given or name in free:
            continue
        if not is_run or given[name].kind not in ("vector", "ignore"):
            raise UsageError(
                f"a role of several columns together is vector or ignore, and they are {name}_0, "
                f"{name}_1, ... or {name}_1, {name}_2, ...; got {given[name].kind} for {ordered}."
            )
    return runs


def _are_parts(columns: pl.DataFrame) -> bool:
    numbers = [to_float(values) for values in columns if is_numeric(values)]
    return len(numbers) == columns.width and any(has_fraction(one) for one in numbers)


def _names(free: Sequence[str], runs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the free columns in order, each run in the place of its first column."""
    run_of = {column: name for name, columns in runs.items() for column in columns}
    return list(dict.fromkeys(run_of.get(column, column) for column in free))


def _decide(
    name: str,
    values: pl.Series,
    ids: pl.Series,
    declared: str | None,
    told: Role | None,
    distinct_share: float,
) -> Feature | str:
    """Return the feature of one column, or why it is none."""
    if told is not None:
        kind: FeatureKind = told.kind  # type: ignore[assignment]  # id, title, ignore are done
        separator = told.separator
        if separator is None and kind in ("multi", "vector"):
            separator = find_separator(values, kind, declared)
        return Feature(name, kind, (name,), separator, "as told")
    found = infer(values, ids, name=name, declared=declared, distinct_share=distinct_share)
    if found[0] is None:
        return found[2]
    return Feature(name, found[0], (name,), found[1], found[2])
