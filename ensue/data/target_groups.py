"""Queries of a log: for each a few targets of one user, and a history that does not hold them.

```
before   user's events  [ 7 3 9 4 1 ]   2 targets a query:   [7] -> 3 9   [7 3 9] -> 4 1
others   user's items, shuffled for each epoch
                        [ 9 1 7 4 3 ]                        [7 4 3] -> 9 1   [3 9 1] -> 7 4 ...
```

Each event (or item) is a target once an epoch, but for a first event that no history precedes.
Shapes: U users, R events, G groups, n groups of a batch, S items of their histories, P targets.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ensue.data.histories import Histories

HistoryKind = Literal["before", "others"]


class Queries(NamedTuple):
    """Queries of a batch.

    users: [n]; history: [S] items, oldest first, offsets: [n + 1].
    targets: [P] items; owners: [P], the query of each, ascending.
    """

    users: NDArray[np.int64]
    history: NDArray[np.int64]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int64]
    owners: NDArray[np.int64]


class TargetGroups:
    """The groups of targets of all users.

    kind: "before" reads the events before the group, "others" the user's other distinct items.
    num_targets: in all groups.

    Args:
        size: targets of a group; fewer at the end, and of "others" at most half of the items.
        needs_history: leave out targets that no history is there for.
    """

    def __init__(
        self,
        histories: Histories,
        num_items: int,
        *,
        kind: HistoryKind,
        size: int,
        needs_history: bool,
    ) -> None:
        self.kind = kind
        if kind == "others":
            offsets, self._items = histories.distinct_items(num_items)
        else:
            users, self._items = histories.flat()
            offsets = np.searchsorted(users, np.arange(histories.num_users + 2))
        self._starts, self._ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
        lengths = self._ends - self._starts
        first = np.zeros(len(lengths), dtype=np.int64)
        sizes = np.full(len(lengths), size)
        if kind == "others":
            sizes = np.clip(lengths // 2, 1, size)
            if needs_history:
                first[lengths == 1] = 1
        elif needs_history:
            first[:] = 1
        counts = -(-np.maximum(lengths - first, 0) // sizes)
        self._users = np.repeat(np.arange(len(lengths)), counts)
        number = np.arange(len(self._users)) - np.repeat(np.cumsum(counts) - counts, counts)
        shift = (self._starts + first)[self._users]
        self._firsts = shift + number * sizes[self._users]
        self._lasts = np.minimum(self._firsts + sizes[self._users], self._ends[self._users])
        self.num_targets = int((self._lasts - self._firsts).sum())

    def __len__(self) -> int:
        return len(self._users)

    def order(self, rng: np.random.Generator) -> NDArray[np.int32]:
        """Return the items of all users in the order of an epoch [R]."""
        if self.kind == "before":
            return self._items
        owners = np.repeat(np.arange(len(self._starts)), self._ends - self._starts)
        return self._items[np.lexsort((rng.random(len(owners)), owners))]

    def take(self, groups: NDArray[np.int64], order: NDArray[np.int32], max_len: int) -> Queries:
        """Return the queries of groups [n], given the order of the epoch."""
        users, firsts, lasts = self._users[groups], self._firsts[groups], self._lasts[groups]
        starts, ends = self._starts[users], self._ends[users]
        sizes = lasts - firsts
        owners = np.repeat(np.arange(len(groups)), sizes)
        targets = order[_spans(firsts, sizes)]
        if self.kind == "before":
            lengths = np.minimum(firsts - starts, max_len)
            places = _spans(firsts - lengths, lengths)
        else:  # those behind the group, then from the user's first one on
            lengths = np.minimum(ends - starts - sizes, max_len)
            own = np.repeat(np.arange(len(groups)), lengths)
            behind = _spans(lasts - starts, lengths)
            places = starts[own] + behind % (ends - starts)[own]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        history = order[places].astype(np.int64)
        return Queries(users.astype(np.int64), history, offsets, targets.astype(np.int64), owners)


def _spans(firsts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return first, first + 1, ... of each span, `length` numbers of it."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(firsts - ends + lengths, lengths)


def find_known(
    queries: Queries,
    candidates: NDArray[np.int64],
    known_offsets: NDArray[np.int64],
    known_items: NDArray[np.int32],
    num_items: int,
) -> NDArray[np.int64]:
    """Return (query, candidate) [2, X] where the candidate is an item that the user has.

    Queries ascend. The time is that of the known items of the users, not of all pairs.

    Args:
        known_offsets, known_items: the distinct items of each user, as
            `Histories.distinct_items` gives them.
    """
    return _find(queries.users, candidates, known_offsets, known_items, num_items)


def find_repeats(
    queries: Queries, candidates: NDArray[np.int64], num_items: int
) -> NDArray[np.int64]:
    """Return (query, candidate) [2, X] where the candidate is a target of the query, or equals one.

    Queries ascend.
    """
    rows = np.arange(len(queries.users))
    offsets = np.searchsorted(queries.owners, np.arange(len(rows) + 1))
    return _find(rows, candidates, offsets, queries.targets.astype(np.int32), num_items)


@njit(cache=True)
def _find(
    rows: NDArray[np.int64],
    candidates: NDArray[np.int64],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    num_items: int,
) -> NDArray[np.int64]:
    """Return the pairs of a query and a candidate that is among items of the query's row."""
    last = np.full(num_items + 1, -1, np.int64)  # place of an item among the candidates,
    before = np.empty(len(candidates), np.int64)  # and of the same item before that one
    for place in range(len(candidates)):
        before[place] = last[candidates[place]]
        last[candidates[place]] = place
    count = 0
    for query in range(len(rows)):
        for position in range(offsets[rows[query]], offsets[rows[query] + 1]):
            place = last[items[position]]
            while place >= 0:
                count += 1
                place = before[place]
    found = np.empty((2, count), np.int64)
    count = 0
    for query in range(len(rows)):
        for position in range(offsets[rows[query]], offsets[rows[query] + 1]):
            place = last[items[position]]
            while place >= 0:
                found[0, count], found[1, count] = query, place
                count += 1
                place = before[place]
    return found
