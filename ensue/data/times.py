"""Times of any usual notation to microseconds since 1970."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.tables import Chunk
from ensue.errors import DataError, UsageError

# Numbers up to the bound are in the unit: seconds reach to the year 5138.
_UNITS = (
    (1e11, "seconds", 1_000_000.0),
    (1e14, "milliseconds", 1_000.0),
    (1e17, "microseconds", 1.0),
    (float("inf"), "nanoseconds", 0.001),
)
_SAMPLE_ROWS = 100  # fixed, so that the unit does not depend on the size of chunks
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class TimeParser:
    """Times of one file. Numbers are seconds, milliseconds, microseconds or nanoseconds, whichever
    puts the first rows between 1970 and 5138; text is ISO 8601, UTC where it has no zone.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._unit: tuple[float, str, float] | None = None
        self._is_text: bool | None = None

    def parse(self, chunk: Chunk) -> NDArray[np.int64]:
        """Return microseconds [n].

        Raises:
            DataError: a time is missing, is no time, is before 1970, or is in another unit.
        """
        values = chunk.rows[self._column]
        if values.dtype.is_temporal():
            times = _from_temporal(values)
        elif values.dtype == pl.String:
            times = self._from_text(values, chunk)
        elif values.dtype.is_numeric():
            numbers = values if values.dtype.is_integer() else values.cast(pl.Float64)
            times = self._from_numbers(numbers, chunk)
        else:
            raise DataError(
                f"column {self._column!r} must hold times; in {chunk.path} it holds {values.dtype}."
            )
        self._check(times, values, chunk)
        return times.to_numpy()

    def _from_text(self, values: pl.Series, chunk: Chunk) -> pl.Series:
        if self._is_text is None:
            head = values.head(_SAMPLE_ROWS).cast(pl.Float64, strict=False)
            self._is_text = 2 * head.null_count() > len(head)
        if self._is_text:
            return parse_iso(values)
        numbers = values.cast(pl.Int64, strict=False)
        if numbers.null_count():
            numbers = values.cast(pl.Float64, strict=False)
        return self._from_numbers(numbers, chunk)

    def _from_numbers(self, numbers: pl.Series, chunk: Chunk) -> pl.Series:
        if numbers.dtype.is_float():
            numbers = numbers.set(~numbers.is_finite().fill_null(True), None)
        if self._unit is None:
            typical: Any = numbers.head(_SAMPLE_ROWS).median()
            self._unit = _unit_of(float(typical or 0))
        bound, unit, scale = self._unit
        is_beyond = (numbers.cast(pl.Float64) > bound).fill_null(False)
        if is_beyond.any():
            index = is_beyond.arg_max() or 0
            raise DataError(
                f"times must be in one unit; {chunk.place(index)} has {numbers[index]} in column "
                f"{self._column!r}, and the first rows are in {unit}. Repair or remove that row."
            )
        if numbers.dtype.is_float():
            return (numbers * scale).round().cast(pl.Int64)
        whole = numbers.cast(pl.Int64)
        return whole * int(scale) if scale >= 1 else whole // 1000

    def _check(self, times: pl.Series, values: pl.Series, chunk: Chunk) -> None:
        if times.null_count():
            index = times.is_null().arg_max() or 0
            raise DataError(
                f"every row must have a time, a number or ISO 8601; {chunk.place(index)} has "
                f"{values[index]!r} in column {self._column!r}. Repair or remove that row."
            )
        if len(times) and (times < 0).any():
            index = (times < 0).arg_max() or 0
            raise DataError(
                f"times must not be before 1970; {chunk.place(index)} has {values[index]!r} in "
                f"column {self._column!r}. Repair or remove that row."
            )


def parse_iso(values: pl.Series) -> pl.Series:
    """Return microseconds of ISO 8601 dates and date-times; null where a text is neither.

    >>> parse_iso(pl.Series(["1970-01-02", "1970-01-01 00:00:01.5", "soon"])).to_list()
    [86400000000, 1500000, None]
    """
    text = values.str.strip_chars()
    # Bring every notation into one: a T, seconds, and a zone.
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00")
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)", "${1}T${2}")
    text = text.str.replace(r"^(.{10}T\d\d:\d\d)($|[zZ+-])", "${1}:00${2}")
    text = text.str.replace(r" ?(?:[zZ]|UTC)$", "+00:00")
    text = text.str.replace(r"^(.{10}T[0-9:.]+)$", "${1}+00:00")
    moments = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us")
    return moments.dt.timestamp("us")


def parse_moment(text: str) -> int:
    """Return microseconds of a date or date-time given as a setting.

    >>> parse_moment("1970-01-02")
    86400000000

    Raises:
        UsageError: it is neither.
    """
    time = parse_iso(pl.Series([text]))[0]
    if time is None:
        raise UsageError(
            f"a time is a date or date-time such as 2020-01-31 or 2020-01-31T12:00; got {text!r}."
        )
    return int(time)


def show_time(time_us: int) -> str:
    """Return a time as ISO 8601 in UTC.

    >>> show_time(86_400_000_000)
    '1970-01-02T00:00:00+00:00'
    """
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat()


def _unit_of(time: float) -> tuple[float, str, float]:
    return next(unit for unit in _UNITS if time < unit[0])


def _from_temporal(values: pl.Series) -> pl.Series:
    if values.dtype == pl.Date:
        return values.cast(pl.Datetime("us")).dt.timestamp("us")
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.timestamp("us")
    return pl.Series([None] * len(values), dtype=pl.Int64)
