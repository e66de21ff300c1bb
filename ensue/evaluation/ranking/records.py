"""A row of a task in 128 bits that sort as integers, and exact sums of weights.

```
order of scores   high  prediction, descending (32 bits) | label (32)
                  low   weight (32) | cluster (32)
order of groups   high  group (64)
                  low   prediction, descending (32) | weight (31) | is positive (1)
```

Rows that are equal in all of these are equal integers, so the sorted sequence depends on the rows
alone and not on the order they came in. Predictions, labels and weights are float32, as models and
datasets hold them; nothing is rounded.

Shapes: n rows.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Float32s = NDArray[np.float32]

NUM_CLUSTERS = 256  # see `ensue.evaluation.ranking.summary`
NO_GROUP = 0  # of rows whose group is not known

_SIGN = np.uint32(0x80000000)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_EXPONENT_BIAS = 150  # a float32 is mantissa * 2**(exponent - 150), mantissa an integer


class Rows(NamedTuple):
    """Rows of one task [n]: prediction, label and weight float32, cluster int64."""

    prediction: Float32s
    label: Float32s
    weight: Float32s
    cluster: NDArray[np.int64]

    def take(self, places: NDArray[np.int64]) -> Rows:
        """Return the rows at these places."""
        return Rows(
            self.prediction[places], self.label[places], self.weight[places], self.cluster[places]
        )


def pack_by_score(rows: Rows) -> tuple[Words, Words]:
    """Return the words of rows that sort by descending prediction."""
    high = _join(~_ordered(rows.prediction), _ordered(rows.label))
    return high, _join(rows.weight.view(np.uint32), rows.cluster)


def unpack_by_score(high: Words, low: Words) -> Rows:
    """Return the rows that `pack_by_score` packed."""
    return Rows(
        _from_ordered(~(high >> _32).astype(np.uint32)),
        _from_ordered((high & _LOW).astype(np.uint32)),
        (low >> _32).astype(np.uint32).view(np.float32),
        (low & _LOW).astype(np.int64),
    )


def pack_by_group(rows: Rows, groups: NDArray[np.int64]) -> tuple[Words, Words]:
    """Return the words of rows with labels 0 and 1 that sort by group, then descending score."""
    bits = (rows.weight.view(np.uint32) << np.uint32(1)) | (rows.label > 0).astype(np.uint32)
    return groups.astype(np.uint64), _join(~_ordered(rows.prediction), bits)


def unpack_by_group(low: Words) -> tuple[NDArray[np.uint32], Float32s, NDArray[np.bool_]]:
    """Return what equals for equal predictions, the weights, and which rows are positive [n]."""
    bits = (low & _LOW).astype(np.uint32)
    weight = (bits >> np.uint32(1)).view(np.float32)
    return (low >> _32).astype(np.uint32), weight, (bits & np.uint32(1)).astype(np.bool_)


def mix(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return integers [n] spread over all 64 bits, one to one (the finalizer of splitmix64)."""
    mixed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class WeightSum:
    """The exact sum of float32 weights of 0 or more, whatever their order; 2**39 of them at least.

    One integer for each exponent holds the sum of the mantissas.
    """

    def __init__(self) -> None:
        self._mantissas = np.zeros(256, dtype=np.int64)

    def add(self, weights: Float32s) -> None:
        """Add the weights [n]."""
        bits = weights.view(np.uint32)
        exponents = (bits >> np.uint32(23)).astype(np.int64)
        mantissas = (bits & np.uint32(0x7FFFFF)) | ((exponents > 0) * np.uint32(0x800000))
        # Below 2**29 rows at a time the float64 sums of bincount are exact integers.
        self._mantissas += np.bincount(exponents, mantissas, minlength=256).astype(np.int64)

    def total(self) -> float:
        """Return the sum, rounded once."""
        whole = sum(int(m) << max(e, 1) for e, m in enumerate(self._mantissas.tolist()))
        return float(Fraction(whole, 1 << _EXPONENT_BIAS))


def _ordered(values: Float32s) -> NDArray[np.uint32]:
    """Return integers in the order of the values; -0 and 0 are one."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _from_ordered(integers: NDArray[np.uint32]) -> Float32s:
    return np.where(integers & _SIGN, integers & ~_SIGN, ~integers).view(np.float32)


def _join(high: NDArray[np.generic], low: NDArray[np.generic]) -> Words:
    return (high.astype(np.uint64) << _32) | low.astype(np.uint64)
