"""Context columns of a log: which of them a model reads, and their values as numbers.

The context of an event is known once the event is over, that of a request before it is answered: an
hour or a page can be both, a watch time of the event to come is not known yet.

A value is one number: in a categorical column the code of the value, 1, 2, ..., and 0 where it is
missing or unknown; in a numeric column the number itself, and NaN where it is missing.
Shapes: C columns, R interactions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.ids import IdMap
from ensue.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class ContextColumn:
    """A context column of a dataset.

    num_values: of a categorical column, whose codes are 1..num_values; None for a numeric column.
    """

    name: str
    num_values: int | None = None

    @property
    def missing(self) -> float:
        """The number that stands for no value."""
        return math.nan if self.num_values is None else 0.0


@dataclass(frozen=True)
class ContextSchema:
    """The columns that a model reads: of the events, and of the request; a name may be in both."""

    event: tuple[ContextColumn, ...] = ()
    request: tuple[ContextColumn, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no column is read."""
        return not self.columns

    @property
    def columns(self) -> list[ContextColumn]:
        """The columns, each once."""
        return list(dict.fromkeys((*self.event, *self.request)))

    def to_dict(self) -> dict[str, Any]:
        """Return the schema, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ContextSchema:
        """Return the schema that `to_dict` stored; an empty one for {}."""
        return cls(**{side: tuple(ContextColumn(**c) for c in stored[side]) for side in stored})


def take_rows(columns: Sequence[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the values of columns [R] in `rows` [*rows.shape, C]."""
    values = np.empty((*rows.shape, len(columns)))
    for number, column in enumerate(columns):
        values[..., number] = column[rows]
    return values


class ContextEncoder:
    """Values as they stand in the log to the numbers that a model reads.

    Args:
        vocabularies: the values of each categorical column.
    """

    def __init__(self, schema: ContextSchema, vocabularies: Mapping[str, IdMap]) -> None:
        self.schema, self._vocabularies = schema, vocabularies

    def encode_event(self, values: Mapping[str, Any]) -> tuple[NDArray[np.float64], list[str]]:
        """Return the context of an event [C], and the unknown values of it as "name=value".

        Columns that `values` does not name, and values that are None or empty, are missing.

        Raises:
            UsageError: a name is no column that the model reads of events, or a value of a numeric
                column is no number.
        """
        return self._encode(self.schema.event, values, "an event", "context_in")

    def encode_request(self, values: Mapping[str, Any]) -> tuple[NDArray[np.float64], list[str]]:
        """Return the context of a request [C]; else as `encode_event`."""
        return self._encode(self.schema.request, values, "a request", "context_out")

    def encode_requests(self, columns: pl.DataFrame) -> tuple[NDArray[np.float64], pl.Series]:
        """Return what `encode_request` does for each row: numbers [B, C], and lists of unknowns.

        Args:
            columns: [B] of every column that the model reads of requests, by name.

        Raises:
            UsageError: a value is no number, or no text, where it must be.
        """
        numbers = np.empty((len(columns), len(self.schema.request)))
        unknown = []
        for number, column in enumerate(self.schema.request):
            values = columns[column.name]
            if column.num_values is None:
                numbers[:, number] = _numbers(values)
                continue
            if values.dtype.is_nested():
                raise UsageError(f"context {column.name!r} must be text; got {values.dtype}.")
            text = values.cast(pl.String).replace("", None)
            numbers[:, number] = codes = self._vocabularies[column.name].find(text)
            told = pl.lit(f"{column.name}=") + pl.lit(text)  # null where the value is
            unknown.append(pl.when(pl.lit(pl.Series(codes == 0))).then(told).alias(column.name))
        if not unknown:
            return numbers, pl.Series([[]], dtype=pl.List(pl.String)).new_from_index(
                0, len(columns)
            )
        return numbers, pl.select(pl.concat_list(unknown).list.drop_nulls()).to_series()

    def _encode(
        self,
        columns: Sequence[ContextColumn],
        values: Mapping[str, Any],
        whose: str,
        setting: str,
    ) -> tuple[NDArray[np.float64], list[str]]:
        if not columns and not values:
            return np.empty(0), []
        names = [column.name for column in columns]
        for name in values:
            if name not in names:
                hint = did_you_mean(name, names) if names else f" Train m3 with {setting}."
                raise UsageError(
                    f"the context of {whose} has the columns that the model was trained with; "
                    f"{name!r} is none of them.{hint}"
                )
        numbers = np.array([column.missing for column in columns])
        unknown = []
        for number, column in enumerate(columns):
            value = values.get(column.name)
            if value is None or value == "":
                continue
            if column.num_values is None:
                numbers[number] = _number(column.name, value)
                continue
            text = str(value).lower() if isinstance(value, bool) else str(value)  # as prepare does
            numbers[number] = self._vocabularies[column.name].to_dense([text])[0]
            if numbers[number] == 0:
                unknown.append(f"{column.name}={text}")
        return numbers, unknown


def _numbers(values: pl.Series) -> NDArray[np.float64]:
    """Return a column as numbers [B], NaN where one is missing."""
    if values.dtype == pl.String:
        values = values.replace("", None)
    if values.dtype == pl.String or values.dtype.is_numeric() or values.dtype == pl.Boolean:
        read = values.cast(pl.Float64, strict=False)
    else:
        read = pl.repeat(None, len(values), dtype=pl.Float64, eager=True)
    numbers = read.fill_null(math.nan).to_numpy(writable=True)
    is_open = read.is_null() & values.is_not_null()
    for row, value in zip(is_open.arg_true(), values.filter(is_open).to_list(), strict=True):
        numbers[row] = _number(values.name, value)
    return numbers


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"context {name!r} must be a number; got {value!r}.") from None
