"""Bootstrap intervals of means over users.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, the percentile interval: users are
drawn with replacement, as many as there are, again and again; the interval holds the middle part of
the means. All metrics share the draws.

Shapes: U users, M metrics, N resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.errors import UsageError

Floats = NDArray[np.float64]

DRAWS_AT_ONCE = 1 << 20  # bounds the memory, at about 20 bytes a draw; at least one resample


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made; num_resamples = 0 makes none.

    confidence: in (0, 1), the share of the resampled means that an interval holds.
    """

    num_resamples: int
    confidence: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        if self.num_resamples < 0:
            raise UsageError(f"num_resamples must be 0 or more; got {self.num_resamples}.")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must lie between 0 and 1; got {self.confidence}.")

    def intervals(self, metrics: Mapping[str, Floats]) -> dict[str, list[float]]:
        """Return [low, high] around the mean of each metric [U].

        >>> bootstrap = Bootstrap(99, 0.95, np.random.default_rng(0))
        >>> bootstrap.intervals({"map": np.full(9, 0.5)})
        {'map': [0.5, 0.5]}
        """
        if not metrics or self.num_resamples == 0:
            return {}
        values = np.column_stack(list(metrics.values()))
        means = resampled_means(values, self.num_resamples, self.rng)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(means, [tail, 1 - tail], axis=0).tolist()
        return {name: [low[m], high[m]] for m, name in enumerate(metrics)}

    def describe(self) -> str:
        """Return the method in words."""
        if self.num_resamples == 0:
            return "none"
        share = f"{100 * self.confidence:g}%"
        return f"{share} percentile bootstrap over users, {self.num_resamples} resamples"


def resampled_means(values: Floats, num_resamples: int, rng: np.random.Generator) -> Floats:
    """Return the means [N, M] of `values` [U, M] over users drawn with replacement."""
    num_users = len(values)
    means = np.empty((num_resamples, values.shape[1]))
    at_once = max(1, DRAWS_AT_ONCE // num_users)
    for first in range(0, num_resamples, at_once):
        rows = min(at_once, num_resamples - first)
        drawn = rng.integers(0, num_users, size=(rows, num_users), dtype=np.int32)
        drawn += (np.arange(rows, dtype=np.int32) * num_users)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * num_users)
        means[first : first + rows] = times.reshape(rows, num_users) @ values / num_users
    return means
