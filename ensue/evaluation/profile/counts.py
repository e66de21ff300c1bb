"""Sizes of a log: history lengths, popularity of items, repeats, time.

Shapes: U users, I items, S interactions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.histories import COUNT_ROWS, Histories

Ints = NDArray[np.int64]

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent of the users
TOP_PERCENTS = (1, 5, 10, 20, 50)  # of the items
MAX_BINS = 24
MAX_POINTS = 200


def describe_lengths(lengths: Ints) -> dict[str, Any]:
    """Return mean, quantiles and a histogram of the users' history lengths [U].

    The quantile of p percent is the least length that p percent of the users do not exceed. The
    bins of the histogram are about equally wide on a logarithmic scale, and hold whole numbers: bin
    b counts the users with edges[b] <= length < edges[b + 1].

    >>> describe_lengths(np.array([1, 2, 2, 3]))["quantiles"]["50"]
    2
    """
    if len(lengths) == 0:
        return {"mean": None, "quantiles": {}, "histogram": {"edges": [], "users": []}}
    quantiles = np.percentile(lengths, QUANTILES, method="inverted_cdf").tolist()
    longest = int(lengths.max())
    ends = np.geomspace(max(int(lengths.min()), 1), longest + 1, MAX_BINS + 1)
    edges = np.unique(np.append(np.floor(ends[:-1]), longest + 1).astype(np.int64))
    users = np.histogram(lengths, edges)[0]
    return {
        "mean": float(lengths.mean()),
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        "histogram": {"edges": edges.tolist(), "users": users.tolist()},
    }


def describe_popularity(counts: Ints) -> dict[str, Any]:
    """Return how unequally the interactions fall on the items, given their counts [I].

    gini: 0 where all items have as many interactions, near 1 where one item has them all.
    top: percent of the items (rounded up to whole items) -> share of the interactions they have.
    curve: ranks, 1 is the most popular item, and interactions; evenly spaced in log(rank).

    >>> describe_popularity(np.array([0, 0, 0, 8]))["gini"]
    0.75
    """
    ranked = np.sort(counts)[::-1].astype(np.int64)
    total, size = int(ranked.sum()), len(ranked)
    if total == 0:
        return {"gini": None, "top": {}, "curve": {"rank": [], "interactions": []}}
    # sum_r (size + 1 - 2 r) x_r / (size * total), with x_1 the largest
    weights = size + 1 - 2 * np.arange(1, size + 1, dtype=np.float64)
    share = np.cumsum(ranked) / total
    last = [-(-size * percent // 100) for percent in TOP_PERCENTS]
    ranks = np.unique(np.geomspace(1, size, min(MAX_POINTS, size)).round().astype(np.int64))
    return {
        "gini": float(weights @ ranked / (size * total)),
        "top": {str(p): float(share[n - 1]) for p, n in zip(TOP_PERCENTS, last, strict=True)},
        "curve": {"rank": ranks.tolist(), "interactions": ranked[ranks - 1].tolist()},
    }


def count_repeats(histories: Histories) -> dict[str, float]:
    """Return the share of interactions with an item the user had before, and other shares.

    share: of the interactions, those whose item is somewhere in the user's history before.
    immediate: of the interactions, those with the same item as the interaction just before.
    users: of the users, those with a repeat.
    """
    total, num_users = int(histories.lengths.sum()), int((histories.lengths > 0).sum())
    if total == 0:
        return {"share": 0.0, "immediate": 0.0, "users": 0.0}
    size = int(histories.items.max()) + 1
    repeats = immediate = repeaters = 0
    for users in histories.user_blocks(COUNT_ROWS):
        rows, offsets = histories.rows(users)
        items = histories.items[rows].astype(np.int64)
        owners = np.repeat(np.arange(len(users)), np.diff(offsets))
        immediate += int(((np.diff(items) == 0) & (np.diff(owners) == 0)).sum())
        distinct = np.bincount(np.unique(owners * size + items) // size, minlength=len(users))
        repeated = np.diff(offsets) - distinct
        repeats += int(repeated.sum())
        repeaters += int((repeated > 0).sum())
    return {
        "share": repeats / total,
        "immediate": immediate / total,
        "users": repeaters / num_users,
    }


def describe_times(times: NDArray[np.int64], users: NDArray[np.int32]) -> dict[str, Any]:
    """Return first and last time (ISO, UTC), days between them, and the share of ties.

    Args:
        times: [S] microseconds since 1970. users: [S]; a user's rows are contiguous.

    tied: of the interactions, those with the time of the one just before in the history; their
        order says nothing.
    """
    if len(times) == 0:
        return {"first": None, "last": None, "days": None, "tied": 0.0}
    tied = 0
    for start in range(0, len(times), COUNT_ROWS):
        part = slice(start, start + COUNT_ROWS + 1)  # one more, for the pair across the border
        tied += int(((np.diff(times[part]) == 0) & (np.diff(users[part]) == 0)).sum())
    first, last = int(times.min()), int(times.max())
    return {
        "first": str(np.datetime64(first, "us").astype("datetime64[s]")),
        "last": str(np.datetime64(last, "us").astype("datetime64[s]")),
        "days": (last - first) / 86_400e6,
        "tied": tied / len(times),
    }
