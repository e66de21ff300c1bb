"""Values of features as they stand in tables and requests: as text, bags, numbers and vectors.

The same functions read the tables at `prepare` and the values of new items and users later, so
both take a value for the same thing. Shapes: n rows, S values of all bags, D width of a vector.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.clean import to_float

JSON, BRACKETS = "json", "[]"  # separators that are no text between values
LARGEST = 1e100  # of a number: the squares of many still have a sum
_IN_BRACKETS = r""""[^"]*"|'[^']*'|[^,\[\]]+"""


class BadValueError(ValueError):
    """A value is not what its kind needs.

    index: of the row; needed: what the column must hold, in words.
    """

    def __init__(self, index: int, needed: str) -> None:
        super().__init__(needed)
        self.index, self.needed = index, needed


def to_texts(values: pl.Series) -> pl.Series:
    """Return the values as text without white space around it, null where there is none.

    A whole number is its digits, however it is stored: 7, 7.0 and "7" are one value.

    >>> to_texts(pl.Series([1.0, None, float("nan")])).to_list()
    ['1', None, None]

    Raises:
        BadValueError: a number is not whole, or a value is a list or the like.
    """
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        index = values.is_not_null().arg_max() or 0
        raise BadValueError(index, "text or whole numbers")
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = values.cast(pl.Int64, strict=False)
        is_broken = values.is_not_null() & (whole.cast(values.dtype) != values).fill_null(True)
        if is_broken.any():
            raise BadValueError(is_broken.arg_max() or 0, "text or whole numbers")
        values = whole
    return values.cast(pl.String).str.strip_chars().replace("", None)


def to_bags(values: pl.Series, separator: str | None) -> tuple[NDArray[np.int64], pl.Series]:
    """Return the row [S] and the text [S] of each value in text to be split, or in lists.

    >>> rows, texts = to_bags(pl.Series(["a| b", None, "c"]), "|")
    >>> rows.tolist(), texts.to_list()
    ([0, 0, 2], ['a', 'b', 'c'])

    Raises:
        BadValueError: as `to_texts`, or text is no JSON.
    """
    if not _is_list(values):
        values = split(to_texts(values), separator)
    frame = values.alias("value").to_frame().with_row_index("row")
    if _is_list(values):
        frame = frame.explode("value")
    rows = frame["row"].to_numpy().astype(np.int64)
    try:
        texts = to_texts(frame["value"])
    except BadValueError as error:
        raise BadValueError(int(rows[error.index]), error.needed) from None
    is_there = texts.is_not_null()
    return rows[is_there.to_numpy()], texts.filter(is_there)


def split(texts: pl.Series, separator: str | None) -> pl.Series:
    """Return text as lists of text; as it is where the separator is None.

    Raises:
        BadValueError: the separator is "json" and a text is no array.
    """
    if separator is None:
        return texts
    if separator == JSON:
        return _decode(texts, pl.List(pl.String))
    if separator == BRACKETS:
        quoted = texts.str.extract_all(_IN_BRACKETS).list
        return quoted.eval(pl.element().str.strip_chars().str.strip_chars("\"'"))
    if separator == " ":
        return texts.str.replace_all(r"\s+", " ").str.split(" ")
    return texts.str.split(separator)


def to_numbers(values: pl.Series) -> NDArray[np.float64]:
    """Return numbers [n], NaN where there is none.

    Raises:
        BadValueError: a value is no number, or beyond LARGEST.
    """
    texts = values
    if values.dtype == pl.String:
        plain = values.cast(pl.Float64, strict=False)
        if plain.null_count() == values.null_count() + int((values == "").sum()):
            texts = plain
        else:  # white space, or worse
            texts = to_texts(values)
    numbers = to_float(texts)
    result: NDArray[Any] = numbers.fill_null(float("nan")).to_numpy()
    is_broken = np.abs(result) > LARGEST
    if numbers.null_count() > texts.null_count():
        is_broken |= (numbers.is_null() & texts.is_not_null()).to_numpy()
    if is_broken.any():
        raise BadValueError(int(is_broken.argmax()), "finite numbers alone")
    return result


def to_vectors(values: pl.Series, separator: str | None, size: int) -> NDArray[np.float32]:
    """Return vectors [n, D] of text to be split, or of lists; NaN where there is none.

    A vector that lacks one of its numbers is missing as a whole.

    Raises:
        BadValueError: a value is no list of `size` numbers.
    """
    needed = f"vectors of {size} numbers"
    vectors = np.full((len(values), size), np.nan, dtype=np.float32)
    try:
        lists = _vector_lists(values, separator)
    except BadValueError as error:
        raise BadValueError(error.index, needed) from None
    is_there = lists.is_not_null() & (lists.list.len() > 0)
    is_broken = is_there & (lists.list.len() != size).fill_null(False)
    if is_broken.any():
        raise BadValueError(is_broken.arg_max() or 0, needed)
    rows = np.flatnonzero(is_there.to_numpy())
    try:
        numbers = to_numbers(lists.filter(is_there).explode())
    except BadValueError as error:
        raise BadValueError(int(rows[error.index // size]), needed) from None
    is_large = np.flatnonzero(np.abs(numbers) > np.finfo(np.float32).max)
    if len(is_large):
        raise BadValueError(int(rows[is_large[0] // size]), needed)
    vectors[rows] = numbers.reshape(len(rows), size)
    return without_parts(vectors)


def vector_size(values: pl.Series, separator: str | None) -> int:
    """Return the length of the first vector, 0 where there is none.

    Raises:
        BadValueError: a value is text and the separator is None.
    """
    lengths = _vector_lists(values, separator).list.len()
    lengths = lengths.filter(lengths > 0)
    return int(lengths[0]) if len(lengths) else 0


def standardize(numbers: NDArray[np.float64], mean: float, deviation: float) -> NDArray[np.float32]:
    """Return (numbers - mean) / deviation [n] in single precision; NaN stays NaN."""
    largest = float(np.finfo(np.float32).max)
    return np.clip((numbers - mean) / deviation, -largest, largest).astype(np.float32)


def without_parts(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make the vectors [n, D] that lack a number NaN as a whole, in place, and return them."""
    vectors[np.isnan(vectors).any(axis=1)] = np.nan
    return vectors


def decodes(texts: pl.Series) -> bool:
    """Tell whether all text is an array of JSON."""
    try:
        _decode(texts, pl.List(pl.String))
    except BadValueError:
        return False
    return True


def _vector_lists(values: pl.Series, separator: str | None) -> pl.Series:
    """Return lists of numbers, or of text that may hold numbers; null where there is none."""
    if _is_list(values):
        return values.cast(pl.List(values.dtype.inner))  # type: ignore[attr-defined]
    texts = to_texts(values)
    if separator == JSON:
        return _decode(texts, pl.List(pl.Float64))
    lists = split(texts, separator)
    if not _is_list(lists):
        if lists.null_count() < len(lists):
            raise BadValueError(lists.is_not_null().arg_max() or 0, "vectors of numbers")
        lists = lists.cast(pl.List(pl.String))
    return lists


def _is_list(values: pl.Series) -> bool:
    return isinstance(values.dtype, pl.List | pl.Array)


def _decode(texts: pl.Series, dtype: pl.List) -> pl.Series:
    is_array = texts.str.contains(r"^\[(?s:.)*\]$").fill_null(True)
    if not is_array.all():
        raise BadValueError((~is_array).arg_max() or 0, "arrays of JSON")
    try:
        return texts.str.json_decode(dtype)
    except pl.exceptions.PolarsError:
        for index, text in enumerate(texts):  # one of them is to blame
            try:
                pl.Series([text], dtype=pl.String).str.json_decode(dtype)
            except pl.exceptions.PolarsError:
                raise BadValueError(index, "arrays of JSON") from None
        raise


def column_run(name: str) -> tuple[str, int] | None:
    """Return the name and the number of a column that may be one of a vector.

    >>> column_run("embedding_12"), column_run("genre"), column_run("v_01")
    (('embedding', 12), None, None)
    """
    match = re.fullmatch(r"(.+?)[_.](0|[1-9]\d*)", name)
    return (match[1], int(match[2])) if match else None
