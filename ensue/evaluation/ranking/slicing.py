"""Slices of rows: by how often a value was seen in training, and by the values themselves.

Shapes: n rows; V values of a vocabulary, code 0 is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.slices import SLICES, popularity_slices

OTHER, MISSING = "(other)", "(missing)"


@dataclass(frozen=True)
class Slicing:
    """Named slices of the codes of a column.

    slice_of_code: [V + 1] int64, the position in `names` of each code; -1 is none.
    """

    name: str
    column: str
    names: tuple[str, ...]
    slice_of_code: NDArray[np.int64]

    @classmethod
    def by_popularity(cls, column: str, counts: NDArray[np.int64]) -> Slicing:
        """Return head, torso, tail and new values, by their training rows `counts` [V + 1].

        As `ensue.evaluation.slices` has it; rows without a value are in no slice.
        """
        parts = popularity_slices(counts).astype(np.int64)
        return cls(f"popularity of {column}", column, SLICES, parts)

    @classmethod
    def by_value(
        cls, column: str, values: Sequence[str], counts: NDArray[np.int64], max_values: int
    ) -> Slicing:
        """Return a slice for each of the `max_values` values with the most training rows.

        The rest of the values and rows without one are the last two slices.

        Args:
            values: [V], the text of code 1, 2, ...
            counts: [V + 1], training rows of each code.

        >>> Slicing.by_value("day", ["mon", "sun"], np.array([0, 1, 5]), 1).names
        ('sun', '(other)', '(missing)')
        """
        chosen = np.argsort(-counts[1:], kind="stable")[:max_values] + 1
        parts = np.full(len(counts), len(chosen), dtype=np.int64)
        parts[chosen] = np.arange(len(chosen))
        parts[0] = len(chosen) + 1
        names = [values[code - 1] for code in chosen.tolist()]
        for name in (OTHER, MISSING):
            while name in names:  # a value of that very name
                name = f"({name})"
            names.append(name)
        return cls(column, column, tuple(names), parts)
