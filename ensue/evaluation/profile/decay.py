"""How the dependence decays with the lag: as a power of it, or exponentially?

Two figures, each with a bootstrap interval over users:

* the plain log-log slope of Dep_L itself, which is flattened by lasting differences between users;
* the decay of the part above the floor of permuted histories, free of those differences.

The floor is not free of memory: a history is finite, and permuting it leaves the mean dependence of
its own pairs of items. If items L steps apart depend on each other by g(L), beyond what the user
has in common with everybody else's floor, the part above the floor is not g(L) but

    g(L) - A,   A = mean over users of  2 / (m (m - 1)) * sum_{k < m} (m - k) g(k),

which crosses 0 inside the histories; the slope of its logarithm would be too steep (for g(L) =
L^-0.4 and 60 items, A is 0.40 and g(50) is 0.21). So c * (L^-b - A(b)) is fitted, by least squares
with the bootstrap variances as weights, with the exponent b on a grid, and c * (exp(-L / t) - A(t))
for comparison. Both have two parameters, so the one that leaves less is the better description; one
is preferred if it is the better one in 97.5% of the resamples. Decay as a power with b <= 1 is
long-range dependence: the sum of g over all lags diverges.

Shapes: L lags, N resamples, P grid points, M longest history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.intervals import resampled_means
from ensue.evaluation.profile.dependence import Dependence

Floats = NDArray[np.float64]

MIN_USERS = 30  # users a lag needs to be fitted
MIN_LAGS = 5
CERTAIN = 0.975  # share of the resamples
MIN_STANDARD_ERRORS = 3.0  # of the fitted height, to tell it from 0

EXPONENTS = np.arange(2, 301) / 100
DECAY_LAGS = np.geomspace(0.2, 1000.0, 200)


@dataclass(frozen=True)
class Fit:
    """One shape fitted to the part above the floor.

    parameter: the exponent b, or the lag t over which the dependence falls to 1/e.
    interval: 95%, by bootstrap over users.
    height: c; c * shape is what the part above the floor would be for endless histories.
    explained: share of the weighted sum of squares that the fit accounts for.
    curve: [L] the fitted part above the floor, c * (shape - A).
    gains: [N] the weighted sum of squares that the best fit to each resample accounts for.
    """

    parameter: float
    interval: tuple[float, float]
    height: float
    explained: float
    curve: Floats
    gains: Floats

    def to_dict(self, name: str) -> dict[str, Any]:
        """Return the fit, ready for JSON, with the parameter called `name`."""
        return {
            name: self.parameter,
            "interval": list(self.interval),
            "height": self.height,
            "explained": self.explained,
        }


@dataclass(frozen=True)
class Decay:
    """What the lags say of the decay; a figure is None where they say nothing, with the reason.

    lags: [L] the lags that were fitted.
    slope: of log Dep_L over log L, and its 95% interval.
    """

    lags: NDArray[np.int64]
    slope: tuple[float, tuple[float, float]] | None = None
    slope_reason: str | None = None
    power: Fit | None = None
    power_reason: str | None = None
    exponential: Fit | None = None

    @property
    def preferred(self) -> str | None:
        """Which of "power" and "exponential" describes the decay better; None if neither does."""
        if self.power is None or self.exponential is None:
            return None
        share = float((self.power.gains > self.exponential.gains).mean())
        return "power" if share >= CERTAIN else "exponential" if 1 - share >= CERTAIN else None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        slope = {"value": self.slope[0], "interval": list(self.slope[1])} if self.slope else None
        return {
            "lags": self.lags.tolist(),
            "slope": slope,
            "slope_reason": self.slope_reason,
            "power": self.power.to_dict("exponent") if self.power else None,
            "power_reason": self.power_reason,
            "exponential": self.exponential.to_dict("lag") if self.exponential else None,
            "preferred": self.preferred,
        }


class _Sample(NamedTuple):
    """What is fitted: the part above the floor, measured [L] and of resampled users [N, L].

    lengths: [n] history lengths. scale: of Dep_L; a part of the size of its rounding is none.
    """

    lags: NDArray[np.int64]
    measured: Floats
    resampled: Floats
    lengths: NDArray[np.int64]
    scale: float

    @property
    def weights(self) -> Floats:
        """1 / variance at each lag [L], over resamples."""
        errors = self.resampled.std(axis=0)
        least = max(1e-3 * float(errors.max()), 1e-12 * self.scale, 1e-150)
        return np.maximum(errors, least) ** -2.0


def fit_decay(found: Dependence, *, num_resamples: int, rng: np.random.Generator) -> Decay:
    """Return how the dependence decays over the lags that have MIN_USERS users."""
    lags = np.flatnonzero(found.num_users >= MIN_USERS)
    lags = lags[lags > 0]
    if len(lags) < MIN_LAGS:
        reason = (
            f"fewer than {MIN_LAGS} lags have {MIN_USERS} users with a history longer than the lag"
        )
        return Decay(lags, slope_reason=reason, power_reason=reason)
    products, excess = _resampled(
        [found.products[:, lags], found.excess[:, lags]], num_resamples, rng
    )
    slope, slope_reason = _plain_slope(lags, found.total.value[lags], products)
    sample = _Sample(
        lags=lags,
        measured=(found.total.value - found.total.floor)[lags],
        resampled=excess,
        lengths=found.lengths,
        scale=float(np.abs(found.total.value[lags]).max()),
    )
    power = _fit(sample, EXPONENTS, lambda distances, exponent: distances**-exponent)
    exponential = _fit(sample, DECAY_LAGS, lambda distances, lag: np.exp(-distances / lag))
    return Decay(
        lags,
        slope=slope,
        slope_reason=slope_reason,
        power=power if isinstance(power, Fit) else None,
        power_reason=power if isinstance(power, str) else None,
        exponential=exponential if isinstance(exponential, Fit) else None,
    )


def loglog_slopes(lags: NDArray[np.int64], values: Floats) -> Floats:
    """Return the least-squares slope of log(value) over log(lag) for each row of values [N, L].

    Values that are not above 0 are left out; NaN where fewer than two are left.

    >>> loglog_slopes(np.array([1, 2, 4]), np.array([[8.0, 4.0, 2.0]])).round(6).tolist()
    [-1.0]
    """
    weights = (values > 0).astype(np.float64)
    x = np.log(lags.astype(np.float64)) * weights
    y = np.log(np.where(values > 0, values, 1.0))
    n = np.maximum(weights.sum(axis=1), 1)
    x_spread = (x**2).sum(axis=1) - x.sum(axis=1) ** 2 / n
    shared = (x * y).sum(axis=1) - x.sum(axis=1) * y.sum(axis=1) / n
    is_defined = weights.sum(axis=1) > 1
    return np.where(is_defined, shared / np.where(is_defined, x_spread, 1.0), np.nan)


def mean_pair_shape(shape: Floats, lengths: NDArray[np.int64], lags: NDArray[np.int64]) -> Floats:
    """Return A [L]: the mean of shape over the pairs of items of a history, then over users.

    The users at a lag are those with a history longer than it.

    Args:
        shape: [M - 1] its values at the distances 1, 2, ... between two items.
        lengths: [n] history lengths, at most M.

    >>> mean_pair_shape(np.array([1.0, 0.5]), np.array([2, 3]), np.array([1, 2])).round(4).tolist()
    [0.9167, 0.8333]
    """
    sizes, counts = np.unique(lengths[lengths > 1], return_counts=True)
    distances = np.arange(1, len(shape) + 1)
    upto, moment = np.cumsum(shape), np.cumsum(distances * shape)
    of_size = 2 * (sizes * upto[sizes - 2] - moment[sizes - 2]) / (sizes * (sizes - 1))
    first = np.searchsorted(sizes, lags, side="right")
    sums = np.cumsum((of_size * counts)[::-1])[::-1]
    users = np.cumsum(counts[::-1])[::-1]
    return sums[first] / users[first]


def _resampled(
    tables: Sequence[Floats], num_resamples: int, rng: np.random.Generator
) -> list[Floats]:
    """Return the column means [N, L] of each table [n, L] over resampled users; NaN is left out."""
    is_real = ~np.isnan(tables[0])
    columns = [is_real.astype(np.float64), *(np.where(is_real, table, 0.0) for table in tables)]
    means = resampled_means(np.hstack(columns), num_resamples, rng)
    shares, *sums = np.split(means, len(columns), axis=1)
    return [part / np.maximum(shares, 1e-300) for part in sums]


def _plain_slope(
    lags: NDArray[np.int64], values: Floats, resampled: Floats
) -> tuple[tuple[float, tuple[float, float]] | None, str | None]:
    """Return the slope with its interval, or why there is none."""
    if not (values > 0).all():
        return None, "Dep_L is not above 0 at every lag"
    slope = float(loglog_slopes(lags, values[None, :])[0])
    return (slope, _interval(loglog_slopes(lags, resampled))), None


def _fit(sample: _Sample, grid: Floats, shape: Callable[[Floats, float], Floats]) -> Fit | str:
    """Return the best c * (shape - A), or why there is none.

    Args:
        grid: [P] parameters to choose from.
        shape: of distances and a parameter.
    """
    distances = np.arange(1, sample.lengths.max(), dtype=np.float64)
    curves = np.empty((len(grid), len(sample.lags)))
    for row, parameter in enumerate(grid):
        values = shape(distances, parameter)
        mean = mean_pair_shape(values, sample.lengths, sample.lags)
        curves[row] = values[sample.lags - 1] - mean
    weights = sample.weights
    best, heights, gains = _best_rows(
        curves, weights, np.vstack([sample.measured, sample.resampled])
    )
    row, height = int(best[0]), float(heights[0])
    spread = (sample.resampled @ (weights * curves[row])).std() / (weights @ curves[row] ** 2)
    if not height > max(MIN_STANDARD_ERRORS * float(spread), 1e-9 * sample.scale):
        return "the part above the floor of permuted histories cannot be told from 0"
    if row in (0, len(grid) - 1):
        return (
            "the part above the floor of permuted histories falls too fast or too slowly for "
            "histories of these lengths to show its shape"
        )
    return Fit(
        parameter=float(grid[row]),
        interval=_interval(np.where(heights[1:] > 0, grid[best[1:]], np.nan)),
        height=height,
        explained=float(gains[0] / (weights @ sample.measured**2)),
        curve=height * curves[row],
        gains=gains[1:],
    )


def _best_rows(
    curves: Floats, weights: Floats, values: Floats
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return for each row of values [N, L] the curve [P, L] that leaves least of it.

    Beside the rows come their heights and the weighted sums of squares they account for. Heights
    below 0 are not considered; where no other is left, both are 0.
    """
    norms = np.maximum((curves**2) @ weights, 1e-300)
    shared = np.maximum((values * weights) @ curves.T, 0.0)
    gain = shared**2 / norms
    best = gain.argmax(axis=1)
    rows = np.arange(len(values))
    return best, shared[rows, best] / norms[best], gain[rows, best]


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return low, high
