"""Features of items and of users: what they are, and their values in dense-id order.

Shapes: N items or users; row 0 is padding and has no value in any column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FeatureKind = Literal["categorical", "multi", "numeric", "vector"]


@dataclass(frozen=True)
class FeatureColumn:
    """A column of a table of items or users.

    kind: one value of a vocabulary, any number of them, a number, or a dense vector.
    size: number of values of the vocabulary, whose codes are 1..size; width of a vector; 1 for a
        number.
    """

    name: str
    kind: FeatureKind
    size: int


@dataclass(frozen=True)
class Bags:
    """Any number of values for each row: row r has values[offsets[r]:offsets[r + 1]].

    values: [S] codes; offsets: [N + 2], the padding row 0 is empty.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class FeatureTable:
    """The features of all items, or of all users.

    values: for each column codes [N + 1] (0 is missing or unknown), `Bags` of codes (unknown ones
        are left out), numbers [N + 1] or vectors [N + 1, size], float32, NaN where missing.
    """

    columns: tuple[FeatureColumn, ...]
    values: tuple[NDArray[Any] | Bags, ...]


def make_bags(
    rows: NDArray[np.integer[Any]], codes: NDArray[np.integer[Any]], *, num_rows: int
) -> Bags:
    """Return the bags of rows 0..num_rows - 1 whose pairs (row, code) are given in any order.

    The codes of a bag ascend, each once.

    >>> bags = make_bags(np.array([2, 1, 2, 2]), np.array([5, 9, 3, 5]), num_rows=4)
    >>> bags.values.tolist(), bags.offsets.tolist()
    ([9, 3, 5], [0, 0, 1, 3, 3])
    """
    width = int(codes.max(initial=0)) + 1
    pairs = np.unique(rows.astype(np.int64) * width + codes)
    offsets = np.searchsorted(pairs, np.arange(num_rows + 1) * width)
    return Bags((pairs % width).astype(np.int32), offsets.astype(np.int64))
