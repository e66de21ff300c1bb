"""What each user did before a row: a view into one array of items, sorted by user and time.

```
values   [ a c a | b b d ]     rows of user 1 at the times 1, 2, 2, 5:  ends 0, 1, 1, 3
           user 1   user 2     (at time 2 only the event of time 1 is earlier)
```

Shapes: R rows, E events, S = E or the events of several parts after each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HistoryViews:
    """The history of row r is values[ends[r] - lengths[r]:ends[r]], oldest event first.

    values: [S] int32; ends: [R] int64; lengths: [R] int32.
    """

    values: NDArray[np.int32]
    ends: NDArray[np.int64]
    lengths: NDArray[np.int32]


def find_histories(
    users: NDArray[np.integer],
    items: NDArray[np.integer],
    times: NDArray[np.int64],
    is_event: NDArray[np.bool_],
    parts: NDArray[np.uint8],
    max_length: int,
) -> HistoryViews:
    """Return the last `max_length` events of each row's user that are strictly earlier.

    Nothing of a later part is part of a history, also where files say that it is earlier in time.

    Args:
        users, items: codes [R], 0 where missing: such a row has no history, and is no event.
        times: [R]; rows of one user with equal times do not see each other.
        is_event: [R], which rows count.
        parts: [R], ascending.
    """
    moments = np.unique(times, return_inverse=True)[1].astype(np.int64)
    num_moments = int(moments.max(initial=0)) + 1
    keys = users.astype(np.int64) * num_moments + moments
    is_event = is_event & (users > 0) & (items > 0)
    ends = np.zeros(len(users), dtype=np.int64)
    starts = np.zeros(len(users), dtype=np.int64)
    values: list[NDArray[np.int32]] = []
    first = 0
    in_order = bool((np.diff(times) >= 0).all())
    for rows, known in _groups(parts, in_order):
        events = known[is_event[known]]
        order = events[np.argsort(keys[events], kind="stable")]
        sorted_keys = keys[order]
        ends[rows] = first + np.searchsorted(sorted_keys, keys[rows])
        own = users[rows].astype(np.int64) * num_moments
        starts[rows] = first + np.searchsorted(sorted_keys, own)
        values.append(items[order].astype(np.int32))
        first += len(order)
    lengths = np.minimum(ends - starts, max_length)
    lengths[users == 0] = 0
    return HistoryViews(
        np.concatenate([np.empty(0, dtype=np.int32), *values]), ends, lengths.astype(np.int32)
    )


def _groups(
    parts: NDArray[np.uint8], in_order: bool
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the rows of each part, and the rows that they may know of.

    Where parts follow each other in time what is earlier is of no later part, and one group does.
    """
    everything = np.arange(len(parts))
    if in_order:
        return [(everything, everything)]
    return [
        (np.flatnonzero(parts == part), np.flatnonzero(parts <= part)) for part in np.unique(parts)
    ]
