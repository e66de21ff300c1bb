"""Which edges of a graph are known in a part of a dataset: none that shows what is held out.

```
split by time     edges before the time at which the part ends
split by user,    an edge of a user: up to his last row of the part, and before his first row after
or by files       it; of two users: both; of no user: up to the last row of anyone in the part
no times          every edge
```

Beside that, an edge between a user and an item is in no part before the one that holds the same
pair as an interaction. The part "all" has all edges.

Shapes: E edges, U users, R rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAST = np.iinfo(np.int64).max
NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Limits:
    """The last time, in microseconds, at which an edge still counts.

    of_user: [U + 1], of an edge of each user; of_others: of an edge without users.
    """

    of_user: NDArray[np.int64]
    of_others: int

    @classmethod
    def at(cls, time_us: int, num_users: int) -> Limits:
        """Return the limits of a part that ends before one time for all."""
        return cls(np.full(num_users + 1, time_us - 1), time_us - 1)

    @classmethod
    def by_user(
        cls, times: NDArray[np.int64], ends: Mapping[str, NDArray[np.int64]], part: str
    ) -> Limits:
        """Return the limits of a part that ends for each user apart.

        Args:
            times: [R], of the interactions, sorted by user, then split, then time.
            ends: start, train_end, validation_end and end [U + 1], rows of each user.
            part: "train" or "train+validation".
        """
        bounds = [ends[name] for name in ("start", "train_end", "validation_end", "end")]
        num_known = {"train": 1, "train+validation": 2}[part]
        last = np.full(len(bounds[0]), NEVER)
        next_one = np.full(len(bounds[0]), LAST)
        for number, (first, stop) in enumerate(itertools.pairwise(bounds)):
            has_rows = stop > first
            if number < num_known:
                last[has_rows] = np.maximum(last[has_rows], times[stop[has_rows] - 1])
            else:
                next_one[has_rows] = np.minimum(next_one[has_rows], times[first[has_rows]])
        return cls(np.minimum(last, next_one - 1), int(last.max()))

    def allow(self, types: tuple[str, str], edges: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return which edges [E] count.

        Args:
            types: of the two sides; edges: source, target and time [E].
        """
        is_known = np.ones(len(edges["time"]), dtype=np.bool_)
        for kind, side in zip(types, ("source", "target"), strict=True):
            if kind == "user":
                is_known &= edges["time"] <= self.of_user[edges[side]]
        if "user" not in types:
            is_known = edges["time"] <= self.of_others
        return is_known


def pair_keys(
    types: tuple[str, str], edges: Mapping[str, NDArray[Any]], num_items: int
) -> NDArray[np.int64] | None:
    """Return a number for each pair of a user and an item [E]; None of a graph of other types."""
    if set(types) != {"user", "item"}:
        return None
    users, items = (edges["source"], edges["target"])[:: 1 if types[0] == "user" else -1]
    return user_item_keys(users, items, num_items)


def user_item_keys(
    users: NDArray[np.integer[Any]], items: NDArray[np.integer[Any]], num_items: int
) -> NDArray[np.int64]:
    """Return a number for each pair [E], different for different pairs."""
    keys: NDArray[np.int64] = users.astype(np.int64) * (num_items + 1) + items
    return keys
