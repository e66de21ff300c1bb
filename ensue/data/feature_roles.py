"""What the columns of a table of items or users are: told by the caller, or by the first rows.

The rules, in this order, for a column without a role:

1. without a value in the first 10,000 rows: ignored;
2. a list: a vector where all lists have the same length and some number has a fraction, else multi;
3. a header of RecBole says it: token is categorical, token_seq multi, float numeric, float_seq a
   vector; the last and the second one are split by spaces;
4. true and false: categorical;
5. text with "|" in one of a hundred values, or ";" or "," in one of ten and each part twice on
   average: multi;
6. where the table has 1.2 rows an id or more, and half of the ids with several rows have different
   values: multi, of one value a row (not so for numbers with a fraction);
7. numbers: numeric; but categorical where they are whole and the column's name ends in id, code or
   zip, or one starts with a zero, or they look like codes: none from 0 or 1 to the largest, at most
   100, is left out, and each is there twice on average;
8. other text: categorical.

A categorical feature by rule 3, 7 or 8 is ignored in a table of 20 rows or more where most values
are there once: it would tell the rows apart and nothing else. Columns NAME_0 .. NAME_n or
NAME_1 .. NAME_n of numbers, not all of them whole, are one vector NAME.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from ensue.data.clean import is_numeric, to_float
from ensue.data.columns import find_usual, recognize
from ensue.data.feature_store import Side
from ensue.data.feature_values import BRACKETS, JSON, column_run, decodes, split, to_texts
from ensue.data.features import FeatureKind
from ensue.data.tables import Table
from ensue.errors import UsageError, did_you_mean

ROLES = ("id", "title", "categorical", "multi", "numeric", "vector", "ignore")
SEPARATORS = ("|", ";", ",")
_MAX_CODE = 100
_ROWS_AN_ID = 1.2
_FEWEST_ROWS = 20
_ID_NAME = r"(?i)(^|[^a-z])(id|code|zip|zipcode|postcode)$|(?-i:[a-z](Id|ID|Code|Zip))$"


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
    unused = dict.fromkeys(of_role["ignore"], "as told")
    runs = _find_runs(free, sample, given)
    features = []
    for name in _names(free, runs):
        if name in unused or (name in given and given[name].kind == "ignore"):
            unused.update(dict.fromkeys(runs.get(name, [name]), "as told"))
            continue
        if name in runs:
            reason = "as told" if name in given else f"numbers in {len(runs[name])} columns"
            features.append(Feature(name, "vector", tuple(runs[name]), None, reason))
            continue
        found = _decide(name, sample, id_column, table.types.get(name), given.get(name))
        if isinstance(found, Feature):
            features.append(found)
        else:
            unused[name] = found
    return TableRoles(id_column, title, tuple(features), unused)


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
    return len(numbers) == columns.width and any(_has_fraction(one) for one in numbers)


def _names(free: Sequence[str], runs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the free columns in order, each run in the place of its first column."""
    run_of = {column: name for name, columns in runs.items() for column in columns}
    return list(dict.fromkeys(run_of.get(column, column) for column in free))


def _decide(
    name: str, sample: pl.DataFrame, id_column: str, declared: str | None, told: Role | None
) -> Feature | str:
    """Return the feature of one column, or why it is none."""
    values = sample[name]
    if told is not None:
        kind: FeatureKind = told.kind  # type: ignore[assignment]  # id, title, ignore are done
        separator = told.separator
        if separator is None and kind in ("multi", "vector"):
            separator = _find_separator(values, kind, declared)
        return Feature(name, kind, (name,), separator, "as told")
    found = infer(values, sample[id_column], name=name, declared=declared)
    if found[0] is None:
        return found[2]
    return Feature(name, found[0], (name,), found[1], found[2])


Inferred = tuple[FeatureKind | None, str | None, str]  # kind, separator, reason


def infer(
    values: pl.Series, ids: pl.Series, *, name: str = "", declared: str | None = None
) -> Inferred:
    """Return the kind of a column, None to ignore it, what splits its text, and the reason."""
    dtype = values.dtype
    if isinstance(dtype, pl.List | pl.Array):
        return _infer_lists(values, None)
    if dtype.is_nested() or dtype.is_temporal() or dtype == pl.Binary:
        return None, None, f"holds {dtype}"
    texts = (values.fill_nan(None) if dtype.is_float() else to_texts(values)).drop_nulls()
    if not len(texts):
        return None, None, "no value in the first rows"
    if declared:
        return _infer_declared(texts.cast(pl.String), declared)
    if dtype == pl.Boolean or (dtype == pl.String and texts.is_in(["true", "false"]).all()):
        return "categorical", None, "true or false"
    if dtype == pl.String and texts.str.contains(r"^\[(?s:.)*\]$").all():
        brackets = JSON if decodes(texts) else BRACKETS
        return _infer_lists(split(texts, brackets), brackets)
    is_number = is_numeric(texts)
    if is_number and _has_fraction(to_float(texts)):
        return "numeric", None, "numbers"
    if not is_number and (separator := _split_by(texts)):
        return "multi", separator, f"text split by {separator!r}"
    if _differ_within_ids(values, ids):
        return "multi", None, "several rows of an id"
    if is_number:
        return _infer_whole_numbers(texts, name)
    return _unless_distinct(texts, "text")


def _infer_lists(lists: pl.Series, separator: str | None) -> Inferred:
    present = lists.drop_nulls().cast(pl.List(lists.dtype.inner))  # type: ignore[attr-defined]
    lengths, parts = present.list.len(), present.explode().drop_nulls()
    if not len(parts):
        return None, None, "no value in the first rows"
    if parts.dtype.is_nested():
        return None, None, f"holds {lists.dtype}"
    if lengths.n_unique() == 1 and is_numeric(parts) and _has_fraction(to_float(parts)):
        return "vector", separator, f"lists of {lengths[0]} numbers"
    return "multi", separator, "lists"


def _infer_declared(texts: pl.Series, declared: str) -> Inferred:
    reason = f"{declared} in the header"
    if declared == "float":
        return "numeric", None, reason
    if declared == "float_seq":
        return "vector", " ", reason
    if declared == "token_seq":
        is_reused = _is_reused(split(texts, " ").explode())
        return ("multi", " ", reason) if is_reused else (None, None, "words that hardly recur")
    return _unless_distinct(texts, reason)


def _infer_whole_numbers(texts: pl.Series, name: str) -> Inferred:
    texts = texts.cast(pl.String)
    numbers = to_float(texts)
    smallest, largest = int(numbers.min()), int(numbers.max())  # type: ignore[arg-type]
    num_distinct = numbers.n_unique()
    if pl.Series([name]).str.contains(_ID_NAME).all():
        return _unless_distinct(texts, "whole numbers, by its name")
    if texts.str.contains(r"^0\d").any():
        return _unless_distinct(texts, "digits that start with 0")
    is_gapless = smallest in (0, 1) and smallest < largest <= _MAX_CODE
    if is_gapless and num_distinct == largest - smallest + 1 and 2 * num_distinct <= len(texts):
        return "categorical", None, f"whole numbers {smallest} to {largest} without a gap"
    return "numeric", None, "whole numbers"


def _split_by(texts: pl.Series) -> str | None:
    for separator in SEPARATORS:
        share = texts.str.contains(separator, literal=True).mean()
        needed = 0.01 if separator == "|" else 0.1
        if float(share or 0.0) >= needed and (  # type: ignore[arg-type]
            separator == "|" or _is_reused(split(texts, separator).explode())
        ):
            return separator
    return None


def _unless_distinct(texts: pl.Series, reason: str) -> Inferred:
    if len(texts) >= _FEWEST_ROWS and not _is_reused(texts):
        return None, None, "most values are there once"
    return "categorical", None, reason


def _is_reused(values: pl.Series) -> bool:
    return 2 * values.n_unique() <= len(values)


def _has_fraction(numbers: pl.Series) -> bool:
    present = numbers.drop_nulls().drop_nans()
    return bool((present != present.floor()).any())


def _differ_within_ids(values: pl.Series, ids: pl.Series) -> bool:
    """Tell whether rows of one id hold different values, and not by an accident here and there."""
    frame = pl.DataFrame({"id": ids, "value": values}).drop_nulls()
    if len(frame) < _ROWS_AN_ID * frame["id"].n_unique():
        return False
    several = frame.group_by("id").agg(pl.len(), distinct=pl.col("value").n_unique())
    several = several.filter(pl.col("len") > 1)
    return bool(len(several)) and float((several["distinct"] > 1).mean()) >= 0.5  # type: ignore[arg-type]


def _find_separator(values: pl.Series, kind: str, declared: str | None) -> str | None:
    """Return what splits text that the caller says holds several values or numbers."""
    if values.dtype != pl.String:
        return None
    texts = to_texts(values).drop_nulls()
    if declared in ("token_seq", "float_seq"):
        return " "
    if len(texts) and texts.str.contains(r"^\[(?s:.)*\]$").all():
        return JSON if decodes(texts) else BRACKETS
    for separator in SEPARATORS:
        if texts.str.contains(separator, literal=True).any():
            return separator
    return " " if kind == "vector" else None
