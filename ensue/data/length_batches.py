"""Batches of histories of similar length, so that little of a batch is padding.

```
events 1 2 3 4 5, max_len=8     read [1 2 3 4 0]   targets [2 3 4 5 0]   padded to 5 in its batch
events 1 2 3 4 5, max_len=3     read [2 3 4]       targets [3 4 5]       crop "last"
```

Where the histories have context, the context of an event goes with the event that is read, and the
context of a request with the target that answers it.

An epoch puts the histories in random order, sorts stretches of them by length, cuts the stretches
into batches of about equally many positions, and puts the batches in random order: each history is
read once, and which histories meet in a batch changes from epoch to epoch.
Shapes: U users, B batch, T positions, C context columns.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ensue.data.context import take_rows
from ensue.data.histories import Histories

SORTED_BATCHES = 64  # batches whose histories are sorted together


class LengthBatches:
    """Plans epochs over all histories that have a target, and makes the arrays of a batch.

    Args:
        max_len: events read of a history; it has as many targets, the events that follow them.
        batch_size: histories of mean length in a batch: a batch of short histories has more of
            them, and a batch of long ones fewer.
        crop: what is read of a longer history; see `SequenceConfig`.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        max_len: int,
        batch_size: int,
        crop: Literal["last", "random"] = "last",
    ) -> None:
        self._histories = histories
        self._max_len, self._batch_size, self._crop = max_len, batch_size, crop
        self._lengths = np.minimum(histories.lengths - 1, max_len)
        self.users = np.flatnonzero(self._lengths > 0)
        self.num_targets = int(self._lengths[self.users].sum())
        self._num_tokens = max(max_len, batch_size * self.num_targets // max(1, len(self.users)))

    def plan(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return the users of each batch of an epoch."""
        order = rng.permutation(self.users)
        stretch = SORTED_BATCHES * self._batch_size
        batches = []
        for first in range(0, len(order), stretch):
            users = order[first : first + stretch]
            users = users[np.argsort(self._lengths[users], kind="stable")]
            batches += self._cut(users)
        return [batches[n] for n in rng.permutation(len(batches))]

    def _cut(self, users: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return users, sorted by length, in batches of at most `_num_tokens` padded positions."""
        lengths = self._lengths[users]
        batches, first = [], 0
        while first < len(users):
            padded = np.arange(1, len(users) - first + 1) * lengths[first:]
            size = max(1, int(np.searchsorted(padded, self._num_tokens, side="right")))
            batches.append(users[first : first + size])
            first += size
        return batches

    def gather(
        self, users: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[Any], ...]:
        """Return (items [B, T], targets [B, T]); 0 is padding in both, T the longest history's.

        Where the histories have context, that of the events read and that of the requests which the
        targets answer come behind, both [B, T, C], 0 where there is padding.
        """
        return self.take(*self.rows(users, rng))

    def rows(
        self, users: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return (rows [B, T + 1], is_real [B, T + 1]) of the events read and their targets.

        Events 0..T - 1 of a row are read, events 1..T are the targets; row 0 stands for padding.
        """
        lengths = self._lengths[users]
        ends = self._histories.ends[users]
        if self._crop == "random":
            slack = self._histories.lengths[users] - 1 - lengths
            ends = ends - rng.integers(0, slack + 1)
        rows = (ends - lengths - 1)[:, None] + np.arange(lengths.max() + 1)
        is_real = np.arange(lengths.max() + 1) <= lengths[:, None]
        return np.where(is_real, rows, 0), is_real

    def take(self, rows: NDArray[np.int64], is_real: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        """Return what `gather` does, for the result of `rows`."""
        histories = self._histories
        items = histories.items[rows].astype(np.int64) * is_real
        pair = items[:, :-1] * is_real[:, 1:], items[:, 1:]  # the last event has no target
        if not histories.event_context and not histories.request_context:
            return pair
        event = take_rows(histories.event_context, rows[:, :-1])
        request = take_rows(histories.request_context, rows[:, 1:])
        event[~is_real[:, 1:]] = request[~is_real[:, 1:]] = 0
        return *pair, event, request
