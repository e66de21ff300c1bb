"""Visits out of a table: a row for each visit, with its entity, its time and what was measured.

The table is any file that `data.readers` can read, or a Polars data frame. A time is a number, or
an ISO 8601 date, which is counted in days.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.longitudinal.measurements import Numbers, check_numbers
from ensue.data.longitudinal.visits import Visits, sort_visits
from ensue.data.readers import open_tables
from ensue.data.times import parse_iso
from ensue.errors import DataError, UsageError, did_you_mean

MISSING = ("", "NA", "NaN", "nan", "null")
CHUNK_ROWS = 1 << 16
MICROSECONDS_PER_DAY = 86_400_000_000


def read_frame(table: str | Path | pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Return a table and what to call it; text that is a number throughout is one.

    Raises:
        DataError: the file is missing, cannot be understood or has no rows.
    """
    if isinstance(table, pl.DataFrame):
        frame, source = table, "the table"
    else:
        (opened,) = open_tables([table])
        chunks = [chunk.rows for chunk in opened.read(opened.columns, CHUNK_ROWS)]
        frame, source = pl.concat(chunks) if chunks else pl.DataFrame(), str(table)
    if len(frame) == 0:
        raise DataError(f"a table of visits needs rows; {source} has none.")
    return frame.select(_typed(column) for column in frame.get_columns()), source


def read_visits(
    table: str | Path | pl.DataFrame,
    *,
    entity: str,
    time: str,
    features: Sequence[str] | None = None,
    others: Sequence[str] = (),
) -> Visits:
    """Return the visits of a table.

    Args:
        features: the columns that were measured; None is all columns of numbers but entity, time
            and `others`. Those that never change are left out.
        others: columns that are compared with what is found; they are no features by default.

    Raises:
        DataError: a column is missing, or holds what it must not.
        UsageError: no feature is left.
    """
    frame, source = read_frame(table)
    check_columns(frame, [entity, time, *(features or ()), *others], source)
    if features is None:
        known = {entity, time, *others}
        features = [c for c in frame.columns if c not in known and frame[c].dtype.is_numeric()]
    notes = []
    constant = [name for name in features if frame[name].drop_nulls().n_unique() < 2]
    if constant:
        notes.append(f"Left out, because they never change: {', '.join(constant)}.")
        features = [name for name in features if name not in constant]
    if not features:
        raise UsageError(f"a direction of time needs features that change; {source} has none.")
    columns = [numbers_of(frame[name], source).astype(np.float32) for name in features]
    values = np.column_stack(columns)
    check_numbers(values, source)
    num_missing = int(np.isnan(values).sum())
    if num_missing:
        notes.append(f"{num_missing:,} of {values.size:,} values are missing and were masked.")
    order, entities, names = sort_visits(frame[entity], times_of(frame[time], source), source)
    return Visits(
        entities,
        names,
        times_of(frame[time], source)[order],
        Numbers(values[order], tuple(features)),
        frame.drop(entity, time, *features)[order],
        notes,
    )


def check_columns(frame: pl.DataFrame, names: Sequence[str], source: str) -> None:
    """Check that a table has columns of these names.

    Raises:
        DataError: it lacks one.
    """
    for name in names:
        if name not in frame.columns:
            raise DataError(f"{source} has no column {name!r}.{did_you_mean(name, frame.columns)}")


def numbers_of(column: pl.Series, source: str) -> NDArray[np.float64]:
    """Return a column of numbers [N]; null is NaN.

    Raises:
        DataError: it holds something else.
    """
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        found = column.cast(pl.String)
        wrong = found.cast(pl.Float64, strict=False).is_null() & found.is_not_null()
        example = found.filter(wrong).first()
        raise DataError(
            f"column {column.name!r} must hold numbers; {source} has {example!r} there. "
            "Name other features."
        )
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy().copy()


def times_of(column: pl.Series, source: str) -> NDArray[np.float64]:
    """Return a column of times [N]: its numbers, or days since 1970 where it holds dates.

    Raises:
        DataError: it holds neither.
    """
    if column.dtype.is_temporal():
        column = column.cast(pl.Datetime("us")).dt.timestamp("us") / MICROSECONDS_PER_DAY
    elif column.dtype == pl.String:
        moments = parse_iso(column)
        wrong = moments.is_null() & column.is_not_null()
        if wrong.any():
            raise DataError(
                f"column {column.name!r} must hold times, numbers or ISO 8601 dates; {source} has "
                f"{column.filter(wrong).first()!r} there."
            )
        column = moments / MICROSECONDS_PER_DAY
    return numbers_of(column, source)


def _typed(column: pl.Series) -> pl.Series:
    """Return a column of text as numbers where all of it is, and else without what is nothing."""
    if column.dtype != pl.String:
        return column
    text = column.str.strip_chars()
    text = text.set(text.is_in(MISSING), None)
    numbers = text.cast(pl.Float64, strict=False)
    is_text = numbers.null_count() > text.null_count()
    return text if is_text else numbers
