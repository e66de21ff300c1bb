"""Chunks of a log as checked columns: codes of users and items, times, labels, context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.columns import Roles
from ensue.data.row_store import Columns
from ensue.data.tables import Chunk
from ensue.data.times import TimeParser
from ensue.data.vocabulary import Vocabulary
from ensue.errors import DataError


class Cleaner:
    """Turns chunks into columns of a RowStore and collects the vocabularies.

    The columns are user and item (codes), time (absent if the log has none), split (only where
    files give it), and labels and context by name. Context of text is codes too.

    vocabularies: user, item, and each context column of text.
    """

    def __init__(self, text_context: frozenset[str], *, max_integer: int) -> None:
        """Make a cleaner.

        Args:
            text_context: names of context columns to read as text.
            max_integer: see Vocabulary.
        """
        self.vocabularies = {
            name: Vocabulary(max_integer) for name in ("user", "item", *sorted(text_context))
        }
        self._times: dict[Path, TimeParser] = {}

    def clean(self, chunk: Chunk, roles: Roles) -> Columns:
        """Return the columns of a chunk, except split.

        Raises:
            DataError: a value is missing or is not what its column must hold.
        """
        columns: Columns = {}
        for role, name in (("user", roles.user), ("item", roles.item)):
            columns[role] = self.vocabularies[role].encode(read_ids(chunk, name, role))
        if roles.time is not None:
            parser = self._times.setdefault(chunk.path, TimeParser(roles.time))
            columns["time"] = parser.parse(chunk)
        for name, column in roles.labels.items():
            columns[name] = _numbers(chunk, column, "label")
        for name, column in roles.context.items():
            if name in self.vocabularies:
                text = chunk.rows[column].cast(pl.String)
                columns[name] = self.vocabularies[name].encode(text.replace("", None))
            else:
                columns[name] = _numbers(chunk, column, "context")
        return columns


def find_text_columns(sample: pl.DataFrame, roles: Roles) -> frozenset[str]:
    """Return the context columns that hold text: as the caller says, or as the first rows show."""
    return roles.text_context | {
        name for name, column in roles.context.items() if not is_numeric(sample[column])
    }


def is_numeric(values: pl.Series) -> bool:
    """Tell whether all values that are there are numbers."""
    present = values.drop_nulls()
    if present.dtype == pl.String:
        present = present.filter(present != "")
    return to_float(present).null_count() == 0


def read_ids(chunk: Chunk, column: str, role: str) -> pl.Series:
    """Return raw ids as integers or strings."""
    values = chunk.rows[column]
    if values.dtype.is_float():  # what pandas makes of integers beside a missing value
        whole = values.cast(pl.Int64, strict=False)
        is_broken = (whole.cast(values.dtype) != values).fill_null(False)
        if is_broken.any():
            index = is_broken.arg_max() or 0
            raise DataError(
                f"{role} ids must be text or whole numbers; {chunk.place(index)} has "
                f"{values[index]!r} in column {column!r}."
            )
        values = whole
    elif values.dtype.is_nested() or values.dtype == pl.Binary:
        raise DataError(
            f"{role} ids must be text or whole numbers; column {column!r} of {chunk.path} holds "
            f"{values.dtype}."
        )
    elif not values.dtype.is_integer():
        values = values.cast(pl.String)
    is_missing = values.is_null()
    if values.dtype == pl.String:
        is_missing |= (values == "").fill_null(True)
    if is_missing.any():
        place = chunk.place(is_missing.arg_max() or 0)
        raise DataError(
            f"every row must have {'an' if role[0] in 'aeio' else 'a'} {role}; {place} has none in "
            f"column {column!r}. Repair or remove that row."
        )
    return values


def _numbers(chunk: Chunk, column: str, role: str) -> NDArray[np.float64]:
    """Return numbers [n], NaN where there is no value."""
    values = chunk.rows[column]
    numbers = to_float(values)
    is_broken = numbers.is_null() & values.is_not_null()
    if values.dtype == pl.String:
        is_broken &= values != ""
    if is_broken.any():
        index = is_broken.arg_max() or 0
        hint = (
            f"Pass --context {column}:text to read it as text"
            if role == "context"
            else "Repair or remove that row, or name other label columns with --label"
        )
        raise DataError(
            f"{role} column {column!r} must hold numbers alone; {chunk.place(index)} has "
            f"{values[index]!r}. {hint}."
        )
    result: NDArray[Any] = numbers.fill_null(float("nan")).to_numpy()
    return result


def to_float(values: pl.Series) -> pl.Series:
    """Return the values as Float64, null where one is no number."""
    if values.dtype == pl.String:
        numbers = values.cast(pl.Float64, strict=False)
        if numbers.null_count() > values.null_count():  # JSON has true and false
            flags = values.replace_strict({"true": 1.0, "false": 0.0}, default=None)
            numbers = numbers.fill_null(flags.cast(pl.Float64))
        return numbers
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        return pl.Series([None] * len(values), dtype=pl.Float64)
    return values.cast(pl.Float64, strict=False)
