"""How many users two items have in common, from the distinct items of every user.

Counting visits, for one item, the items of all of its users: the cost is the sum over users of the
squared number of their distinct items, and the memory one row of counts per thread.
Shapes: U users, I items, P distinct (user, item) pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from ensue.data.histories import Histories

ResultT = TypeVar("ResultT")


class Incidence(NamedTuple):
    """The distinct (user, item) pairs, by user and by item. Plain arrays: numba reads them.

    user_offsets: [U + 2] int64; the items of user u are user_items[offsets[u]:offsets[u + 1]].
    user_items: [P] int32.
    item_offsets: [I + 2] int64; the users of item i are item_users[offsets[i]:offsets[i + 1]].
    item_users: [P] int32.
    """

    user_offsets: NDArray[np.int64]
    user_items: NDArray[np.int32]
    item_offsets: NDArray[np.int64]
    item_users: NDArray[np.int32]

    @classmethod
    def from_histories(cls, histories: Histories, num_items: int) -> Incidence:
        """Return the distinct pairs of the histories; padding (item 0) is left out."""
        user_offsets, user_items = _distinct_items(
            histories.items, histories.starts, histories.ends, num_items
        )
        item_offsets, item_users = transpose(user_offsets, user_items, num_items)
        return cls(user_offsets, user_items, item_offsets, item_users)

    @property
    def item_counts(self) -> NDArray[np.int64]:
        """Number of users of each item [I + 1]."""
        return np.diff(self.item_offsets)


@njit(cache=True)
def _distinct_items(items: Any, starts: Any, ends: Any, num_items: int) -> Any:
    """Return (offsets, items) of each user's distinct items, in order of first occurrence."""
    num_users = len(starts)
    last_user = np.full(num_items + 1, -1, np.int64)
    offsets = np.zeros(num_users + 1, np.int64)
    room = count = 0
    for user in range(num_users):
        room += ends[user] - starts[user]
    kept = np.empty(room, np.int32)
    for user in range(num_users):
        for row in range(starts[user], ends[user]):
            item = items[row]
            if item != 0 and last_user[item] != user:
                last_user[item] = user
                kept[count] = item
                count += 1
        offsets[user + 1] = count
    return offsets, kept[:count].copy()


@njit(cache=True)
def transpose(user_offsets: Any, user_items: Any, num_items: int) -> Any:
    """Return (offsets [I + 2], users) of each item's users, ascending: a counting sort by item."""
    offsets = np.zeros(num_items + 2, np.int64)
    for item in user_items:
        offsets[item + 1] += 1
    for item in range(num_items + 1):
        offsets[item + 1] += offsets[item]
    free = offsets[:-1].copy()
    users = np.empty(len(user_items), np.int32)
    for user in range(len(user_offsets) - 1):
        for position in range(user_offsets[user], user_offsets[user + 1]):
            item = user_items[position]
            users[free[item]] = user
            free[item] += 1
    return offsets, users


@njit(cache=True, nogil=True)
def count_common_(item: int, incidence: Any, counts: Any, touched: Any) -> int:
    """Add to counts [I + 1] the users each item has in common with `item`; return n.

    Args:
        counts: zero on entry wherever it matters.
        touched: [I + 1]; its first n entries become the items whose count was zero on entry.
    """
    n = 0
    for user_position in range(incidence.item_offsets[item], incidence.item_offsets[item + 1]):
        user = incidence.item_users[user_position]
        for position in range(incidence.user_offsets[user], incidence.user_offsets[user + 1]):
            other = incidence.user_items[position]
            if counts[other] == 0:
                touched[n] = other
                n += 1
            counts[other] += 1
    return n


def map_item_blocks(function: Callable[[int, int], ResultT], num_items: int) -> list[ResultT]:
    """Return function(first, last) for consecutive blocks of ids 0..I, computed by threads.

    The function must release the GIL to gain from it, and must not depend on the block bounds.
    """
    threads = torch.get_num_threads()
    size = min(4096, -(-(num_items + 1) // (8 * threads)))
    firsts = range(0, num_items + 1, size)
    lasts = [min(first + size, num_items + 1) for first in firsts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, firsts, lasts))
