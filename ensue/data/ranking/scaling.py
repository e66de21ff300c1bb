"""How numbers are stored: standardized, those with a heavy tail after a logarithm.

A column has a heavy tail where a training row lies more than ten standard deviations from the
mean: then sign(x) log(1 + |x|) takes the place of x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.data.feature_builders import SMALLEST_DEVIATION
from ensue.data.ranking.roles import Scale

HEAVY_TAIL = 10.0


@dataclass(frozen=True)
class Scaling:
    """What becomes of the numbers of each column: means, deviations, is_log [K]."""

    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    is_log: NDArray[np.bool_]

    def apply(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return numbers [n, K] as they are stored; NaN stays NaN."""
        scaled = numbers.copy()
        scaled[:, self.is_log] = log_scale(numbers[:, self.is_log])
        scaled -= self.means
        scaled /= self.deviations
        largest = float(np.finfo(np.float32).max)
        return np.clip(scaled, -largest, largest, out=scaled).astype(np.float32)


def log_scale(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sign(x) log(1 + |x|).

    >>> log_scale(np.array([0.0, -1.0])).round(4).tolist()
    [0.0, -0.6931]
    """
    return np.copysign(np.log1p(np.abs(numbers)), numbers)


class Moments:
    """Mean and standard deviation of each column over the values that are there, chunk by chunk.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """

    def __init__(self, num_columns: int) -> None:
        self.count = np.zeros(num_columns)
        self.mean = np.zeros(num_columns)
        self._squares = np.zeros(num_columns)
        self.low = np.full(num_columns, np.inf)
        self.high = np.full(num_columns, -np.inf)

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Add rows [n, K]; NaN does not count."""
        is_there = ~np.isnan(numbers)
        count = is_there.sum(axis=0)
        known = np.where(is_there, numbers, 0.0)
        mean = known.sum(axis=0) / np.maximum(count, 1)
        squares = np.where(is_there, np.square(numbers - mean), 0.0).sum(axis=0)
        total = np.maximum(self.count + count, 1)
        shift = np.where(count > 0, mean - self.mean, 0.0)
        self._squares += squares + np.square(shift) * self.count * count / total
        self.mean += shift * count / total
        self.count += count
        low = np.where(is_there, numbers, np.inf).min(axis=0, initial=np.inf)
        high = np.where(is_there, numbers, -np.inf).max(axis=0, initial=-np.inf)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def deviation(self) -> NDArray[np.float64]:
        """Return the deviations [K]; 1 where all values are the same, or there is none."""
        deviation = np.sqrt(self._squares / np.maximum(self.count, 1))
        is_spread = (self.high > self.low) & (deviation > SMALLEST_DEVIATION)
        return np.where(is_spread, deviation, 1.0)


def fit_scaling(
    chunks: Iterable[NDArray[np.float64]], scales: Sequence[Scale]
) -> tuple[Scaling, NDArray[np.float64]]:
    """Return how columns are to be stored after their training rows, and how many have a value [K].

    Args:
        chunks: training rows [n, K]; scales: what the caller says of each column.
    """
    plain, log = Moments(len(scales)), Moments(len(scales))
    for numbers in chunks:
        plain.add(numbers)
        log.add(log_scale(numbers))
    has_any = plain.count > 0
    reach = np.maximum(plain.high - plain.mean, plain.mean - plain.low)
    is_heavy = has_any & (np.where(has_any, reach, 0.0) > HEAVY_TAIL * plain.deviation())
    told = np.array([scale == "log" for scale in scales], dtype=np.bool_)
    is_open = np.array([scale == "auto" for scale in scales], dtype=np.bool_)
    is_log = told | (is_open & is_heavy)
    return Scaling(
        np.where(is_log, log.mean, plain.mean),
        np.where(is_log, log.deviation(), plain.deviation()),
        is_log,
    ), plain.count
