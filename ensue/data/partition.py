"""Rows sorted by user, then split, then time, then input order, one part of the users at a time.

The number of rows of each user is known before, so parts are cut to fit the memory there is.
Shapes: N rows of a part, n users of a part, V user codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ensue.data.row_store import Columns, RowStore

_SORT_BYTES_PER_ROW = 40  # codes, times, order, and a column before and after sorting


@dataclass(frozen=True)
class SortedPart:
    """The rows of consecutive users.

    first_user: number of the first user, from 0, in the order of `position_of_user`.
    offsets: [n + 1]; user u's sorted rows are offsets[u] .. offsets[u + 1] - 1.
    order: [N] row of the store at each sorted place.
    """

    first_user: int
    offsets: NDArray[np.int64]
    order: NDArray[np.int64]
    store: RowStore

    def column(self, name: str) -> NDArray[Any]:
        """Return column `name` [N], sorted."""
        return self.store.column(name)[self.order]


def sorted_parts(
    store: RowStore,
    position_of_user: NDArray[np.int32],
    counts: NDArray[np.int64],
    memory_bytes: int,
) -> Iterator[SortedPart]:
    """Yield the rows of `store` in parts and give the store up; a part is valid until the next.

    Args:
        position_of_user: [V] the place of each user code in the order wanted, from 0.
        counts: rows of each user, in the order wanted.
    """
    max_rows = max(memory_bytes // _SORT_BYTES_PER_ROW, 1)
    part_of_user = (np.cumsum(counts) - counts) // max_rows
    first_users = np.flatnonzero(np.diff(part_of_user, prepend=-1))
    stops = np.append(first_users[1:], len(counts))
    part_of_user = np.repeat(np.arange(len(first_users)), stops - first_users)
    parts = [store]
    if len(first_users) > 1:
        parts = _scatter(store, part_of_user[position_of_user], len(first_users))
    for part, first, stop in zip(parts, first_users, stops, strict=True):
        users = position_of_user[part.column("user")] - np.int32(first)
        order, offsets = _order_by_user(users, int(stop - first))
        del users
        for name in ("time", "split"):
            if name in part.dtypes:
                keys = part.column(name).astype(np.int64, copy=False)  # one type, compiled once
                _sort_within_users(order, offsets, keys)
                del keys
        yield SortedPart(int(first), offsets, order, part)
        part.clear()


def _scatter(store: RowStore, part_of_user: NDArray[np.int64], num_parts: int) -> list[RowStore]:
    """Return the rows of `store` in one store per part; rows keep their order."""
    memory_bytes = store.memory_bytes // num_parts
    name = store.folder.name
    parts = [store.like(f"{name}-part{p}", memory_bytes=memory_bytes) for p in range(num_parts)]
    kind = np.uint16 if num_parts <= 1 << 16 else np.int64  # numpy sorts 16 bits in linear time
    for chunk in store.chunks():
        part = part_of_user[chunk["user"]].astype(kind)
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=num_parts))
        grouped: Columns = {name: values[order] for name, values in chunk.items()}
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                rows = {name: values[start:end].copy() for name, values in grouped.items()}
                parts[number].append(rows)
    store.clear()
    return parts


@njit(cache=True)
def _order_by_user(
    users: NDArray[np.int32], num_users: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows [N] by user, in input order within each, and offsets [n + 1]."""
    offsets = np.zeros(num_users + 1, dtype=np.int64)
    for user in users:
        offsets[user + 1] += 1
    for user in range(num_users):
        offsets[user + 1] += offsets[user]
    free = offsets[:-1].copy()
    order = np.empty(len(users), dtype=np.int64)
    for row in range(len(users)):
        user = users[row]
        order[free[user]] = row
        free[user] += 1
    return order, offsets


@njit(cache=True)
def _merge_sort(rows: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `rows` by their keys, stably; numba's own sort takes seconds to compile."""
    size = len(rows)
    source, target = rows, np.empty_like(rows)
    width = 1
    while width < size:
        for start in range(0, size, 2 * width):
            middle, end = min(start + width, size), min(start + 2 * width, size)
            left, right = start, middle
            for place in range(start, end):
                if left < middle and (right == end or keys[source[left]] <= keys[source[right]]):
                    target[place] = source[left]
                    left += 1
                else:
                    target[place] = source[right]
                    right += 1
        source, target = target, source
        width *= 2
    return source


@njit(cache=True)
def _sort_within_users(
    order: NDArray[np.int64], offsets: NDArray[np.int64], keys: NDArray[np.int64]
) -> None:
    """Sort each user's part of `order` by keys[order], keeping the order of equal keys."""
    for user in range(len(offsets) - 1):
        start, end = offsets[user], offsets[user + 1]
        for place in range(start + 1, end):
            if keys[order[place]] < keys[order[place - 1]]:
                rows = _merge_sort(order[start:end].copy(), keys)
                for index in range(end - start):  # assigning a slice takes seconds to compile
                    order[start + index] = rows[index]
                break
