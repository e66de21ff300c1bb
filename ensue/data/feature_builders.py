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
        self._vocabulary = Vocabulary()

    def add(self, rows: Rows, columns: Sequence[pl.Series]) -> None:
        """Add the values [n] of `rows`, which are dense ids [n]."""
        codes = self._vocabulary.encode(to_texts(columns[0]))
        _fill(self._codes, rows, codes, codes >= 0, self._codes < 0)

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
    """A numeric feature; the first row of an id that has a value counts."""

    def __init__(self, num_rows: int) -> None:
        self._numbers = np.full(num_rows, np.nan)

    def add(self, rows: Rows, columns: Sequence[pl.Series]) -> None:
        """Add the values [n] of `rows`, which are dense ids [n]."""
        numbers = to_numbers(columns[0])
        _fill(self._numbers, rows, numbers, ~np.isnan(numbers), np.isnan(self._numbers))

    def build(self) -> Built:
        """Return the feature, standardized over the rows that have a value."""
        is_missing = np.isnan(self._numbers)
        there = self._numbers[~is_missing]
        mean, deviation = 0.0, 1.0
        if len(there):
            mean = float(there.mean())
            if there.min() < there.max():
                deviation = float(there.std())
        values = standardize(self._numbers, mean, deviation)
        missing = float(is_missing[1:].mean())
        return Built(values, int(len(there) > 0), missing, None, mean, deviation)


class VectorsBuilder:
    """A vector of one column of lists or of several columns of numbers; the first one counts.

    The vectors are written to `file`, which may be larger than the memory.
    """

    def __init__(self, num_rows: int, separator: str | None, file: Path) -> None:
        self._num_rows, self._separator, self._file = num_rows, separator, file
        self._vectors: NDArray[np.float32] | None = None

    def add(self, rows: Rows, columns: Sequence[pl.Series]) -> None:
        """Add the values of `rows`, which are dense ids [n]."""
        size = len(columns) if len(columns) > 1 else vector_size(columns[0], self._separator)
        if self._vectors is None:
            if not size:
                return
            self._vectors = np.lib.format.open_memmap(
                self._file, mode="w+", dtype=np.float32, shape=(self._num_rows, size)
            )
            self._vectors[:] = np.nan
        size = self._vectors.shape[1]
        if len(columns) == 1:
            vectors = to_vectors(columns[0], self._separator, size)
        else:
            vectors = without_parts(np.stack([_floats(c) for c in columns], axis=1))
        is_there, is_open = ~np.isnan(vectors[:, 0]), np.isnan(self._vectors[:, 0])
        _fill(self._vectors, rows, vectors, is_there, is_open)

    def build(self) -> Built:
        """Return the feature."""
        if self._vectors is None:
            return Built(np.empty((self._num_rows, 0), dtype=np.float32), 0, 1.0)
        missing = float(np.isnan(self._vectors[1:, 0]).mean())
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
    """Write the values [n] that are there into the rows [n] that are open, the first of each."""
    taken = is_there & is_open[rows]
    target[rows[taken][::-1]] = values[taken][::-1]  # of equal rows the last one stays
