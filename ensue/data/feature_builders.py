"""Features in the making: the values of each are collected chunk by chunk, then written.

Shapes: N items or users, row 0 is padding; n rows of a chunk; D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.feature_roles import Feature
from ensue.data.feature_values import (
    BadValueError,
    standardize,
    to_bags,
    to_numbers,
    to_texts,
    to_vectors,
    vector_size,
    without_parts,
)
from ensue.data.features import Bags, make_bags
from ensue.data.vocabulary import Vocabulary, dense_ids

Rows = NDArray[np.int64]
SMALLEST_DEVIATION = 1e-100  # less is rounding


@dataclass(frozen=True)
class Built:
    """A finished feature.

    values: as in a FeatureTable; vocabulary: the raw values of the codes 1..V.
    size: 0 where no row has a value.
    """

    values: NDArray[Any] | Bags
    size: int
    missing: float
    vocabulary: pl.Series | None = None
    mean: float = 0.0
    deviation: float = 1.0


class CodesBuilder:
    """A categorical feature; the first row of an id that has a value counts."""

    def __init__(self, num_rows: int) -> None:
        self._codes = np.full(num_rows, -1, dtype=np.int32)
        self._is_open = np.ones(num_rows, dtype=np.bool_)
        self._vocabulary = Vocabulary()

    def add(self, rows: Rows, columns: Sequence[pl.Series]) -> None:
        """Add the values [n] of `rows`, which are dense ids [n]."""
        codes = self._vocabulary.encode(to_texts(columns[0]))
        _fill(self._codes, rows, codes, codes >= 0, self._is_open)

    def build(self) -> Built:
        """Return the feature."""
        raw = self._vocabulary.raw()
        is_present = np.bincount(self._codes[self._codes >= 0], minlength=len(raw)) > 0
        vocabulary, dense = dense_ids(raw, is_present)
        codes = dense[self._codes]
        return Built(codes, len(vocabulary), float((codes[1:] == 0).mean()), vocabulary)


class BagsBuilder:
    """A multi-valued feature: all values of all rows of an id."""

    def __init__(self, num_rows: int, separator: str | None) -> None:
        self._num_rows, self._separator = num_rows, separator
        self._rows: list[NDArray[np.int32]] = []
        self._codes: list[NDArray[np.int32]] = []
        self._vocabulary = Vocabulary()

    def add(self, rows: Rows, columns: Sequence[pl.Series]) -> None:
        """Add the values of `rows`, which are dense ids [n]."""
        places, texts = to_bags(columns[0], self._separator)
        self._rows.append(rows[places].astype(np.int32))
        self._codes.append(self._vocabulary.encode(texts))

    def build(self) -> Built:
        """Return the feature."""
        raw = self._vocabulary.raw()
        vocabulary, dense = dense_ids(raw, np.ones(len(raw), dtype=np.bool_))
        none = np.empty(0, dtype=np.int32)
        rows, codes = np.concatenate([none, *self._rows]), np.concatenate([none, *self._codes])
        bags = make_bags(rows, dense[codes], num_rows=self._num_rows)
        missing = float((np.diff(bags.offsets)[1:] == 0).mean())
        return Built(bags, len(vocabulary), missing, vocabulary)


class NumbersBuilder:
    """A numeric feature; the first row of an id that has a value counts.

    numbers: [N + 1] as in the table, NaN where there is none.
    """

    def __init__(self, num_rows: int) -> None:
        self.numbers = np.full(num_rows, np.nan)
        self._is_open = np.ones(num_rows, dtype=np.bool_)

    def add(self, rows: Rows, columns: Sequence[pl.Series]) -> None:
        """Add the values [n] of `rows`, which are dense ids [n]."""
        values = to_numbers(columns[0])
        _fill(self.numbers, rows, values, ~np.isnan(values), self._is_open)

    def build(self) -> Built:
        """Return the feature, standardized over the rows that have a value."""
        is_missing = np.isnan(self.numbers)
        there = self.numbers[~is_missing]
        mean, deviation = 0.0, 1.0
        if len(there):
            mean = float(there.mean())
            spread = float(there.std())
            if there.min() < there.max() and spread > SMALLEST_DEVIATION:
                deviation = spread
        values = standardize(self.numbers, mean, deviation)
        missing = float(is_missing[1:].mean())
        return Built(values, int(len(there) > 0), missing, None, mean, deviation)


class VectorsBuilder:
    """A vector of one column of lists or of several columns of numbers; the first one counts.

    The vectors are written to `file`, which may be larger than the memory.
    """

    def __init__(self, num_rows: int, separator: str | None, file: Path) -> None:
        self._num_rows, self._separator, self._file = num_rows, separator, file
        self._size = 0
        self._is_open = np.ones(num_rows, dtype=np.bool_)
        self._vectors: NDArray[np.float32] | None = None

    def add(self, rows: Rows, columns: Sequence[pl.Series]) -> None:
        """Add the values of `rows`, which are dense ids [n]."""
        if len(columns) > 1:
            vectors = float_columns(columns)
        else:
            size = self._size or vector_size(columns[0], self._separator)
            vectors = to_vectors(columns[0], self._separator, size)
        is_there: NDArray[np.bool_] = np.logical_not(np.isnan(vectors).any(axis=1))
        if not vectors.shape[1] or not is_there.any():
            return
        if self._vectors is None:
            self._size = vectors.shape[1]
            self._vectors = np.lib.format.open_memmap(
                self._file, mode="w+", dtype=np.float32, shape=(self._num_rows, self._size)
            )
            self._vectors[:] = np.nan
        _fill(self._vectors, rows, vectors, is_there, self._is_open)

    def build(self) -> Built:
        """Return the feature."""
        if self._vectors is None:
            return Built(np.empty((self._num_rows, 0), dtype=np.float32), 0, 1.0)
        missing = float(self._is_open[1:].mean())
        return Built(self._vectors, self._vectors.shape[1], missing)


Builder = CodesBuilder | BagsBuilder | NumbersBuilder | VectorsBuilder


def make_builder(feature: Feature, num_rows: int, file: Path) -> Builder:
    """Return the builder of a feature.

    Args:
        num_rows: N + 1.
        file: for the vectors of a vector.
    """
    if feature.kind == "categorical":
        return CodesBuilder(num_rows)
    if feature.kind == "multi":
        return BagsBuilder(num_rows, feature.separator)
    if feature.kind == "numeric":
        return NumbersBuilder(num_rows)
    return VectorsBuilder(num_rows, feature.separator, file)


def float_columns(columns: Sequence[pl.Series]) -> NDArray[np.float32]:
    """Return the vectors [n, D] of D columns of numbers; NaN as a whole where one is missing.

    Raises:
        BadValueError: a value is no number of single precision.
    """
    return without_parts(np.stack([_floats(values) for values in columns], axis=1))


def _floats(values: pl.Series) -> NDArray[np.float32]:
    numbers = to_numbers(values)
    is_large = np.abs(numbers) > np.finfo(np.float32).max
    if is_large.any():
        raise BadValueError(int(is_large.argmax()), "numbers of single precision")
    return numbers.astype(np.float32)


def _fill(
    target: NDArray[Any],
    rows: Rows,
    values: NDArray[Any],
    is_there: NDArray[np.bool_],
    is_open: NDArray[np.bool_],
) -> None:
    """Write the values [n] that are there into the rows [n] that are open, the first of each.

    Args:
        is_open: [N + 1], whether a row of the target has no value yet; updated.
    """
    taken = is_there & is_open[rows]
    target[rows[taken][::-1]] = values[taken][::-1]  # of equal rows the last one stays
    is_open[rows[taken]] = False
