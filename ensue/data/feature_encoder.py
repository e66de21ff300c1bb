"""Values of items or users that the dataset does not have, as the features that a model reads.

Shapes: B rows to encode; as in every FeatureTable, row 0 is padding and has no value, so the arrays
have B + 1 rows and the values of rows[b] are in row b + 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import compress
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.config import make_config
from ensue.data.dataset import Dataset
from ensue.data.feature_info import FeatureInfo
from ensue.data.feature_values import (
    LARGEST,
    BadValueError,
    standardize,
    to_bags,
    to_numbers,
    to_vectors,
    without_parts,
)
from ensue.data.features import Bags, FeatureTable, make_bags
from ensue.data.ids import IdMap
from ensue.errors import DataError, RunError, UsageError, did_you_mean
from ensue.files import write_json

Side = Literal["items", "users"]


class FeatureEncoder:
    """Values as they stand in the table given to `prepare` to a FeatureTable.

    columns: the features; vocabularies: the values of each categorical and multi-valued one.
    unused: other columns of the table, which may be among the values and are not read.
    """

    def __init__(
        self,
        columns: Sequence[FeatureInfo],
        vocabularies: Mapping[str, IdMap],
        unused: Sequence[str] = (),
    ) -> None:
        self.columns, self._vocabularies = tuple(columns), dict(vocabularies)
        self._unused = tuple(unused)
        self._known = {
            *(info.name for info in columns),
            *(source for info in columns for source in info.sources),
            *unused,
        }

    @property
    def names(self) -> frozenset[str]:
        """The names that values may have: of features and their sources, and those not read."""
        return frozenset(self._known)

    @classmethod
    def from_dataset(cls, dataset: Dataset, side: Side) -> FeatureEncoder:
        """Return the encoder of the features of a dataset's items or users.

        Raises:
            DataError: it has no features of them.
        """
        info = dataset.info.features.get(side)
        if info is None or not info.columns:
            raise DataError(
                f"features of {side} are needed; {dataset.path} has none. Run ensue prepare with "
                f"--{side} TABLE."
            )
        vocabularies = {
            column.name: dataset.feature_vocabulary(side, column.name)
            for column in info.columns
            if column.kind in ("categorical", "multi")
        }
        unused = [
            name
            for table in info.tables
            for name in (table.id, *([table.title] if table.title else []), *table.unused)
        ]
        return cls(info.columns, vocabularies, list(dict.fromkeys(unused)))

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[FeatureTable, list[str]]:
        """Return the features of new items or users, and the unknown values as "name=value".

        Names that a row does not have, and values that are None, NaN or empty, are missing. A
        category that the table given to `prepare` did not have counts as missing too; in a bag it
        is left out. Text is split and numbers are standardized as `prepare` did it.

        Raises:
            UsageError: a name is no column of that table, or a value is not of its feature's kind.
        """
        for row in rows:
            for name in row:
                if name not in self._known:
                    known = [info.name for info in self.columns]
                    raise UsageError(
                        f"values are of the features {known}; got {name!r}."
                        + did_you_mean(name, known)
                    )
        unknown: dict[str, None] = {}
        values = tuple(self._encode(info, rows, unknown) for info in self.columns)
        return FeatureTable(tuple(info.column for info in self.columns), values), list(unknown)

    def to_dict(self) -> dict[str, Any]:
        """Return the encoder, ready for JSON."""
        return {
            "columns": [info.model_dump() for info in self.columns],
            "vocabularies": {name: ids.raw.to_list() for name, ids in self._vocabularies.items()},
            "unused": list(self._unused),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FeatureEncoder:
        """Return the encoder that `to_dict` stored."""
        return cls(
            [make_config(FeatureInfo, column) for column in stored["columns"]],
            {
                name: IdMap(pl.Series(values, dtype=pl.String))
                for name, values in stored["vocabularies"].items()
            },
            stored["unused"],
        )

    def save(self, path: str | Path) -> None:
        """Write the encoder as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> FeatureEncoder:
        """Return the encoder that `save` wrote.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} must be an encoder of features; it is not: {error}.") from None

    def _encode(
        self, info: FeatureInfo, rows: Sequence[Mapping[str, Any]], unknown: dict[str, None]
    ) -> NDArray[Any] | Bags:
        given = [value_of(info, row) for row in rows]
        try:
            if info.kind == "categorical":
                return self._codes(info, given, unknown)
            if info.kind == "multi":
                return self._bags(info, given, unknown)
            return (_numbers if info.kind == "numeric" else read_vectors)(info, given)
        except BadValueError as error:
            raise UsageError(
                f"feature {info.name!r} must hold {error.needed}; row {error.index + 1} has "
                f"{given[error.index]!r}."
            ) from None

    def _codes(
        self, info: FeatureInfo, given: Sequence[Any], unknown: dict[str, None]
    ) -> NDArray[np.int32]:
        codes = np.zeros(len(given) + 1, dtype=np.int32)
        texts = {row: read_text(value, row) for row, value in enumerate(given)}
        there = {row: text for row, text in texts.items() if text is not None}
        codes[np.array(list(there), dtype=np.int64) + 1] = self._look_up(
            info, list(there.values()), unknown
        )
        return codes

    def _bags(self, info: FeatureInfo, given: Sequence[Any], unknown: dict[str, None]) -> Bags:
        rows, texts = read_bags(given, info.separator)
        codes = self._look_up(info, texts, unknown)
        rows, codes = rows[codes > 0] + 1, codes[codes > 0]
        return make_bags(rows, codes, num_rows=len(given) + 1)

    def _look_up(
        self, info: FeatureInfo, texts: Sequence[str], unknown: dict[str, None]
    ) -> NDArray[np.int32]:
        codes = self._vocabularies[info.name].to_dense(texts).astype(np.int32)
        unknown.update((f"{info.name}={text}", None) for text in compress(texts, codes == 0))
        return codes


def value_of(info: FeatureInfo, row: Mapping[str, Any]) -> Any:
    """Return the value of a feature in a row; of a vector in several columns, their numbers."""
    if info.name in row or len(info.sources) == 1:
        return row.get(info.name, row.get(info.sources[0]))
    numbers = [row.get(source) for source in info.sources]
    return None if any(_is_missing(number) for number in numbers) else numbers


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return isinstance(value, Real) and math.isnan(value)


def read_text(value: Any, index: int) -> str | None:
    """Return a value as the text that `prepare` makes of it."""
    if _is_missing(value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, Real) and float(value).is_integer():
        return str(int(float(value)))
    if not isinstance(value, str):
        raise BadValueError(index, "text or whole numbers")
    return value.strip()


def read_bags(given: Sequence[Any], separator: str | None) -> tuple[NDArray[np.int64], list[str]]:
    """Return the row [S] and the text [S] of each value, in lists or in text to be split.

    Those of one row are in order and next to each other.
    """
    rows: list[int] = []
    texts: list[str] = []
    if in_text := _rows_of_text(given):
        try:
            places, split = to_bags(_series(given, in_text), separator)
        except BadValueError as error:
            raise BadValueError(in_text[error.index], f"lists or {error.needed}") from None
        rows, texts = [in_text[place] for place in places], split.to_list()
    for row, value in enumerate(given):
        if isinstance(value, str):
            continue
        several = isinstance(value, Collection | np.ndarray)
        parts = [read_text(part, row) for part in (value if several else [value])]
        there = [part for part in parts if part is not None]
        rows += [row] * len(there)
        texts += there
    return np.array(rows, dtype=np.int64), texts


def _numbers(info: FeatureInfo, given: Sequence[Any]) -> NDArray[np.float32]:
    """Return standardized numbers [B + 1], NaN where there is none."""
    numbers = np.concatenate([[np.nan], read_numbers(given)])
    return standardize(numbers, info.mean, info.deviation)


def read_numbers(given: Sequence[Any]) -> NDArray[np.float64]:
    """Return numbers [B], in text or not, NaN where there is none.

    Raises:
        BadValueError: a value is no finite number.
    """
    numbers = np.full(len(given), np.nan)
    if in_text := _rows_of_text(given):
        try:
            numbers[in_text] = to_numbers(_series(given, in_text))
        except BadValueError as error:
            raise BadValueError(in_text[error.index], error.needed) from None
    for row, value in enumerate(given):
        if isinstance(value, str) or _is_missing(value):
            continue
        if not isinstance(value, Real | np.bool_) or abs(float(value)) > LARGEST:
            raise BadValueError(row, "finite numbers alone")
        numbers[row] = value
    return numbers


def read_vectors(info: FeatureInfo, given: Sequence[Any]) -> NDArray[np.float32]:
    """Return vectors [B + 1, D], NaN where there is none."""
    vectors = np.full((len(given) + 1, info.size), np.nan, dtype=np.float32)
    if in_text := _rows_of_text(given):
        try:
            texts = _series(given, in_text)
            vectors[1:][in_text] = to_vectors(texts, info.separator, info.size)
        except BadValueError as error:
            needed = f"vectors of {info.size} numbers"
            raise BadValueError(in_text[error.index], needed) from None
    for row, value in enumerate(given):
        if not isinstance(value, str) and not _is_missing(value):
            vectors[row + 1] = _vector(value, row, info.size)
    return without_parts(vectors)


def _vector(value: Any, row: int, size: int) -> NDArray[np.float64]:
    try:
        vector = np.asarray([_number(part) for part in value], dtype=np.float64)
    except (TypeError, ValueError):
        raise BadValueError(row, f"vectors of {size} numbers") from None
    if vector.shape != (size,) or (np.abs(vector) > np.finfo(np.float32).max).any():
        raise BadValueError(row, f"vectors of {size} numbers")
    return vector


def _number(value: Any) -> float:
    return math.nan if _is_missing(value) else float(value)


def _rows_of_text(given: Sequence[Any]) -> list[int]:
    return [row for row, value in enumerate(given) if isinstance(value, str)]


def _series(given: Sequence[Any], rows: Sequence[int]) -> pl.Series:
    return pl.Series([given[row] for row in rows], dtype=pl.String)
