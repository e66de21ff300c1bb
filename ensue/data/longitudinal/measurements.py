"""What was measured at visits: numbers of any shape, or bags of items.

Shapes: N visits, n of them, S items in all bags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.errors import DataError

Integers = NDArray[np.int64]


class Measurements(Protocol):
    """N measurements of one kind."""

    def __len__(self) -> int:
        """Return N."""


@dataclass(frozen=True)
class BagBatch:
    """Bags of items, none of them empty: items [S] in 1..I, offsets [n + 1]."""

    items: Tensor
    offsets: Tensor


# What a network reads of n measurements: [n, ...] with NaN for missing numbers, or bags.
Inputs = Tensor | BagBatch


class Rows(Protocol):
    """Measurements that lie ready on the device of a network."""

    def take(self, rows: Tensor) -> Inputs:
        """Return those of `rows` [n]."""

    def __len__(self) -> int:
        """Return N."""


@dataclass(frozen=True)
class NumberRows:
    """Numbers [N, ...], scaled."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Tensor) -> Tensor:
        """Return [n, ...]."""
        return self.values[rows]


@dataclass(frozen=True)
class BagRows:
    """Bags of items."""

    items: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: Tensor) -> BagBatch:
        """Return n bags."""
        starts, lengths = self.offsets[rows], self.offsets.diff()[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        total = int(offsets[-1])
        shifts = (starts - offsets[:-1]).repeat_interleave(lengths, output_size=total)
        return BagBatch(self.items[torch.arange(total, device=rows.device) + shifts], offsets)


@dataclass(frozen=True)
class Numbers:
    """Numbers of one shape at every visit; NaN is missing.

    values: [N, ...] float32: [N, F] of a table, [N, C, H, W] of images, [N, C, D, H, W] of volumes.
    features: F names, of a table; empty for images.
    """

    values: NDArray[np.float32]
    features: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one measurement."""
        return self.values.shape[1:]


@dataclass(frozen=True)
class ItemBags:
    """A bag of items at every visit, none of them empty.

    items: [S] in 1..I; offsets: [N + 1], bag b is items[offsets[b]:offsets[b + 1]].
    names: what the I items are called, item 1 first.
    """

    items: Integers
    offsets: Integers
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation that numbers are brought to 0 and 1 with.

    mean, deviation: [F] of a table; [C, 1, 1] and [C, 1, 1, 1] of images and volumes.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, numbers: Numbers, rows: Integers) -> Scale:
        """Return the scale of some measurements; missing ones do not count.

        What never changes keeps its deviation as 1; what is always missing is taken for 0.
        """
        values = numbers.values[rows]
        axes = (0, *range(2, values.ndim))
        is_known = np.isfinite(values)
        count = np.maximum(is_known.sum(axis=axes, keepdims=True), 1)
        known = np.where(is_known, values, 0)
        mean = known.sum(axis=axes, keepdims=True, dtype=np.float64) / count
        squares = np.where(is_known, np.square(values - mean), 0).sum(axis=axes, keepdims=True)
        deviation = np.sqrt(squares / count)
        deviation[deviation <= 1e-6 * np.abs(mean) + 1e-12] = 1.0
        return cls(*(torch.from_numpy(v[0].astype(np.float32)) for v in (mean, deviation)))

    def apply(self, numbers: Numbers) -> Tensor:
        """Return [N, ...] at mean 0 and deviation 1; NaN stays."""
        return (torch.from_numpy(numbers.values) - self.mean) / self.deviation

    def undo(self, values: Tensor) -> Tensor:
        """Return values [n, ...] in the units of the measurements."""
        return values * self.deviation + self.mean


def check_numbers(values: NDArray[np.float32], source: str) -> None:
    """Refuse measurements that nothing can be learned from.

    Raises:
        DataError: one is infinite, or a visit has none.
    """
    if np.isinf(values).any():
        row = int(np.isinf(values).reshape(len(values), -1).any(axis=1).argmax()) + 1
        raise DataError(
            f"measurements must be finite or missing; visit {row} of {source} has an infinite one."
        )
    size = math.prod(values.shape[1:])
    is_empty = np.isnan(values).reshape(len(values), size).all(axis=1)
    if is_empty.any():
        raise DataError(
            f"every visit must have at least one measurement; visit {int(is_empty.argmax()) + 1} "
            f"of {source} has none. Remove it."
        )
