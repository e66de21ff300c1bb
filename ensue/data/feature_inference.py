"""The kind of a column by its first rows.

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
are there once: it would tell the rows apart and nothing else.
"""

from __future__ import annotations

import polars as pl

from ensue.data.clean import is_numeric, to_float
from ensue.data.feature_values import BRACKETS, JSON, decodes, split, to_texts
from ensue.data.features import FeatureKind

SEPARATORS = ("|", ";", ",")
_MAX_CODE = 100
_ROWS_AN_ID = 1.2
_FEWEST_ROWS = 20
_ID_NAME = r"(?i)(^|[^a-z])(id|code|zip|zipcode|postcode)$|(?-i:[a-z](Id|ID|Code|Zip))$"

Inferred = tuple[FeatureKind | None, str | None, str]  # kind, separator, reason


def infer(
    values: pl.Series,
    ids: pl.Series,
    *,
    name: str = "",
    declared: str | None = None,
    distinct_share: float = 0.5,
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
        return _infer_declared(texts.cast(pl.String), declared, distinct_share)
    if dtype == pl.Boolean or (dtype == pl.String and texts.is_in(["true", "false"]).all()):
        return "categorical", None, "true or false"
    if dtype == pl.String and texts.str.contains(r"^\[(?s:.)*\]$").all():
        brackets = JSON if decodes(texts) else BRACKETS
        return _infer_lists(split(texts, brackets), brackets)
    is_number = is_numeric(texts)
    if is_number and has_fraction(to_float(texts)):
        return "numeric", None, "numbers"
    if not is_number and (separator := _split_by(texts)):
        return "multi", separator, f"text split by {separator!r}"
    if _differ_within_ids(values, ids):
        return "multi", None, "several rows of an id"
    if is_number:
        return _infer_whole_numbers(texts, name, distinct_share)
    return _unless_distinct(texts, "text", distinct_share)


def _infer_lists(lists: pl.Series, separator: str | None) -> Inferred:
    present = lists.drop_nulls().cast(pl.List(lists.dtype.inner))  # type: ignore[attr-defined]
    lengths, parts = present.list.len(), present.explode().drop_nulls()
    if not len(parts):
        return None, None, "no value in the first rows"
    if parts.dtype.is_nested():
        return None, None, f"holds {lists.dtype}"
    if lengths.n_unique() == 1 and is_numeric(parts) and has_fraction(to_float(parts)):
        return "vector", separator, f"lists of {lengths[0]} numbers"
    return "multi", separator, "lists"


def _infer_declared(texts: pl.Series, declared: str, distinct_share: float) -> Inferred:
    reason = f"{declared} in the header"
    if declared == "float":
        return "numeric", None, reason
    if declared == "float_seq":
        return "vector", " ", reason
    if declared == "token_seq":
        is_reused = _is_reused(split(texts, " ").explode())
        return ("multi", " ", reason) if is_reused else (None, None, "words that hardly recur")
    return _unless_distinct(texts, reason, distinct_share)


def _infer_whole_numbers(texts: pl.Series, name: str, distinct_share: float) -> Inferred:
    texts = texts.cast(pl.String)
    numbers = to_float(texts)
    smallest, largest = int(numbers.min()), int(numbers.max())  # type: ignore[arg-type]
    num_distinct = numbers.n_unique()
    if pl.Series([name]).str.contains(_ID_NAME).all():
        return _unless_distinct(texts, "whole numbers, by its name", distinct_share)
    if texts.str.contains(r"^0\d").any():
        return _unless_distinct(texts, "digits that start with 0", distinct_share)
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


def _unless_distinct(texts: pl.Series, reason: str, distinct_share: float) -> Inferred:
    if len(texts) >= _FEWEST_ROWS and texts.n_unique() > distinct_share * len(texts):
        return None, None, "most values are there once"
    return "categorical", None, reason


def _is_reused(values: pl.Series) -> bool:
    return 2 * values.n_unique() <= len(values)


def has_fraction(numbers: pl.Series) -> bool:
    """Tell whether a number is not whole."""
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


def find_separator(values: pl.Series, kind: str, declared: str | None) -> str | None:
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
