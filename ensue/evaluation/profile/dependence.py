"""Dependence between the last item of a history and the item L steps before it, for every L.

Tang et al., WWW 2019, arXiv:1902.08588: with Q the vector of an item and e_N the last one,

    Dep_L = tr Cov(Q[e_N], Q[e_{N-L}]) = E[Q[e_N] . Q[e_{N-L}]] - E[Q[e_N]] . E[Q[e_{N-L}]],

expectations over the users. Here it is estimated without bias, as n / (n - 1) times the mean over n
users of the centered inner products (a - mean a) . (b - mean b); the users are those with a history
longer than L, and both means are over them.

Three companions say how much of it is memory. Users differ in lasting taste, which no order can
change, so Dep_L does not fall to 0:

* floor: what Dep_L is on average when every history is permuted. Two random places of a history of
  m items have the inner product e = (|sum Q|^2 - sum |Q|^2) / (m (m - 1)) on average, and items of
  different users do not depend on each other; so the floor is the mean of e over users less the
  mean of mu_u . mu_v over pairs of different users, mu the mean vector of a history.
* shuffled: Dep_L of one random permutation of every history; it scatters around the floor.
* within: Dep_L of the vectors less their user's own mean. It has a floor of its own, below 0: the
  deviations from a mean sum to 0, so two of them have the product -s^2 / (m - 1) on average.

Shapes: U users of the log, n users measured, K + 1 lags 0..K, D width, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.data.histories import Histories

Floats = NDArray[np.float64]

ROWS_AT_ONCE = 1 << 18  # vectors held at a time


class OwnMoments(NamedTuple):
    """Of each user's history: its length [n], mean vector [n, D] and mean squared length [n]."""

    lengths: NDArray[np.int64]
    mean: Floats
    square: Floats


@dataclass(frozen=True)
class Curve:
    """Dependence at each lag.

    value: [K + 1] the estimate; NaN where fewer than two histories are long enough.
    floor: [K + 1] what it is on average when every history is permuted.
    percentiles: [2, K + 1] the 5th and the 95th, over users, of the centered inner products.
    """

    value: Floats
    floor: Floats
    percentiles: Floats


@dataclass(frozen=True)
class Dependence:
    """Dep_L of the histories, and what it is compared with.

    num_users: [K + 1] users with a history longer than each lag.
    total: of the vectors; within: of the vectors less their user's mean.
    shuffled: [K + 1] total of one random permutation of every history.
    products: [n, K + 1] the centered inner products times n / (n - 1), whose mean is total.value;
        NaN for users whose history is too short.
    excess: [n, K + 1] of each user, such that its mean is total.value - total.floor.
    lengths: [n] history lengths.
    """

    num_users: NDArray[np.int64]
    total: Curve
    within: Curve
    shuffled: Floats
    products: Floats
    excess: Floats
    lengths: NDArray[np.int64]


def measure_dependence(
    histories: Histories,
    shuffled: Histories,
    users: NDArray[np.int64],
    vectors: NDArray[np.floating],
    *,
    max_lag: int,
) -> Dependence:
    """Return the dependence of the histories of `users`.

    Args:
        shuffled: the histories, each in a random order.
        users: [n] with a history each.
        vectors: [I + 1, D], frozen, of something that does not know the order.
        max_lag: lags go to this, or to the longest history less one.
    """
    lengths = histories.lengths[users]
    max_lag = min(max_lag, int(lengths.max(initial=1)) - 1)
    own = own_moments(histories, users, vectors)
    recent = recent_items(histories, users, max_lag)
    products = centered_products(recent, vectors)
    within = centered_products(recent, vectors, own.mean)
    deviations = OwnMoments(
        own.lengths, np.zeros_like(own.mean), own.square - (own.mean**2).sum(axis=1)
    )
    floors = user_floors(own, max_lag)
    n = (~np.isnan(products)).sum(axis=0)
    unbiased = products * _ratio(n)
    return Dependence(
        num_users=n,
        total=_curve(products, floors),
        within=_curve(within, user_floors(deviations, max_lag)),
        shuffled=_estimate(centered_products(recent_items(shuffled, users, max_lag), vectors)),
        products=unbiased,
        excess=unbiased - floors,
        lengths=lengths,
    )


def recent_items(histories: Histories, users: NDArray[np.int64], max_lag: int) -> NDArray[np.int32]:
    """Return [n, K + 1]: column L is the item L steps before the last; 0 where there is none."""
    place = histories.ends[users, None] - 1 - np.arange(max_lag + 1)
    is_real = place >= histories.starts[users, None]
    if len(histories.items) == 0:
        return np.zeros(place.shape, dtype=np.int32)
    return np.where(is_real, histories.items[place.clip(min=0)], 0).astype(np.int32)


def own_moments(
    histories: Histories, users: NDArray[np.int64], vectors: NDArray[np.floating]
) -> OwnMoments:
    """Return the moments of the users' vectors, over their whole histories of one item or more."""
    width = vectors.shape[1]
    lengths = histories.lengths[users]
    mean = np.empty((len(users), width))
    square = np.empty(len(users))
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    bounds = np.searchsorted(
        np.cumsum(lengths), np.arange(0, max(int(lengths.sum()), 1), ROWS_AT_ONCE)
    )
    for first, last in zip(bounds, [*bounds[1:], len(users)], strict=True):
        if last == first:
            continue
        rows, offsets = histories.rows(users[first:last])
        items = histories.items[rows]
        sums = np.add.reduceat(vectors[items].astype(np.float64), offsets[:-1], axis=0)
        mean[first:last] = sums / lengths[first:last, None]
        square[first:last] = np.add.reduceat(squares[items], offsets[:-1]) / lengths[first:last]
    return OwnMoments(lengths, mean, square)


def centered_products(
    recent: NDArray[np.int32], vectors: NDArray[np.floating], own_mean: Floats | None = None
) -> Floats:
    """Return (a - mean a) . (b - mean b) for each user and lag [n, K + 1]; NaN for none.

    Args:
        recent: [n, K + 1] items by lag, 0 where the history is too short.
        own_mean: [n, D], taken off the vectors of each user first.
    """
    products = np.full(recent.shape, np.nan)
    for lag in range(recent.shape[1]):
        chosen = np.flatnonzero(recent[:, lag])
        if len(chosen) == 0:
            continue
        a = vectors[recent[chosen, 0]].astype(np.float64)
        b = vectors[recent[chosen, lag]].astype(np.float64)
        if own_mean is not None:
            a, b = a - own_mean[chosen], b - own_mean[chosen]
        products[chosen, lag] = ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).sum(axis=1)
    return products


def user_floors(own: OwnMoments, max_lag: int) -> Floats:
    """Return each user's part of the floor at each lag [n, K + 1], whose mean is the floor.

    It is e_u less the part of a user in the mean of mu_u . mu_v over pairs, which is
    2 mu_u . (mean of the other users' mu) - that mean. At lag 0 both places are the same one, and e
    is the mean squared length. NaN where the history is too short or no second one is long enough.
    """
    floors = np.full((len(own.lengths), max_lag + 1), np.nan)
    norm = (own.mean**2).sum(axis=1)
    pair = (norm * own.lengths - own.square) / np.maximum(own.lengths - 1, 1)
    for lag in range(max_lag + 1):
        chosen = np.flatnonzero(own.lengths > lag)
        n = len(chosen)
        if n < 2:
            break
        mean = own.mean[chosen]
        total = mean.sum(axis=0)
        with_others = (mean @ total - norm[chosen]) / (n - 1)
        same = own.square[chosen] if lag == 0 else pair[chosen]
        floors[chosen, lag] = same - 2 * with_others + with_others.mean()
    return floors


def _curve(products: Floats, floors: Floats) -> Curve:
    return Curve(
        value=_estimate(products),
        floor=_column_means(floors),
        percentiles=_percentiles(products),
    )


def _estimate(products: Floats) -> Floats:
    """Return the unbiased estimates [K + 1] from centered inner products [n, K + 1]."""
    return _column_means(products * _ratio((~np.isnan(products)).sum(axis=0)))


def _ratio(n: NDArray[np.int64]) -> Floats:
    """Return n / (n - 1), NaN for n < 2."""
    return np.where(n > 1, n / np.maximum(n - 1, 1), np.nan)


def _column_means(values: Floats) -> Floats:
    """Return the means of the columns over the entries that are not NaN; NaN for none."""
    is_real = ~np.isnan(values)
    n = is_real.sum(axis=0)
    return np.where(n > 0, np.where(is_real, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)


def _percentiles(values: Floats) -> Floats:
    """Return the 5th and the 95th percentile of each column over the entries that are not NaN."""
    found = np.full((2, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        real = values[~np.isnan(values[:, column]), column]
        if len(real) > 1:
            found[:, column] = np.percentile(real, [5, 95])
    return found
