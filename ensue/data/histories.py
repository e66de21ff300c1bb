"""A user's history is a slice of one long array of items; batches of histories are jagged.

```
items    [ 7 3 9 | 4 | 5 5 2 8 ]        user 1: 7 3 9    user 2: 4    user 3: 5 5 2 8
starts   user 1 -> 0   user 2 -> 3   user 3 -> 4
ends     user 1 -> 3   user 2 -> 4   user 3 -> 8
```

Shortening every history to its training part moves `ends`; no item is copied.
Shapes: U users, R interactions, B batch, S items in a batch of histories, T padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COUNT_ROWS = 1 << 22  # interactions counted at a time


@dataclass(frozen=True)
class HistoryBatch:
    """Histories of B users, oldest item first.

    users: [B] int64; 0 is a user never seen in training.
    items: [S] int64, the histories one after the other.
    offsets: [B + 1] int64; history b is items[offsets[b]:offsets[b + 1]].
    """

    users: Tensor
    items: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def padded(self, max_len: int) -> Tensor:
        """Return the last `max_len` items of each history [B, max_len], left-padded with 0."""
        position = (
            self.offsets[1:, None] - max_len + torch.arange(max_len, device=self.items.device)
        )
        if len(self.items) == 0:
            return torch.zeros_like(position)
        is_real = position >= self.offsets[:-1, None]
        return self.items[position.clamp(min=0)] * is_real

    def right_padded(self, rows: Tensor, max_len: int) -> Tensor:
        """Return histories `rows` [n] from their first item on [n, max_len], 0 behind the end."""
        position = self.offsets[rows, None] + torch.arange(max_len, device=self.items.device)
        is_real = position < self.offsets[rows + 1, None]
        return self.items[position.clamp(max=len(self.items) - 1)] * is_real

    def without_padding(self) -> HistoryBatch:
        """Return the batch without items 0."""
        is_real = self.items > 0
        if bool(is_real.all()):
            return self
        kept = torch.cat([is_real.new_zeros(1), is_real]).cumsum(0)
        return HistoryBatch(self.users, self.items[is_real], kept[self.offsets])

    def last(self, max_len: int | None) -> HistoryBatch:
        """Return the batch with the last `max_len` items of each history; None is all of them."""
        lengths = self.offsets.diff()
        if max_len is None or len(lengths) == 0 or int(lengths.max()) <= max_len:
            return self
        from_end = self.offsets[1:].repeat_interleave(lengths) - torch.arange(
            len(self.items), device=self.items.device
        )
        offsets = torch.cat([lengths.new_zeros(1), lengths.clamp(max=max_len).cumsum(0)])
        return HistoryBatch(self.users, self.items[from_end <= max_len], offsets)

    def to(self, device: torch.device | str) -> HistoryBatch:
        """Return the batch on `device`."""
        return HistoryBatch(self.users.to(device), self.items.to(device), self.offsets.to(device))

    @classmethod
    def from_lists(
        cls,
        histories: Sequence[Sequence[int] | NDArray[np.int64]],
        users: Sequence[int] | None = None,
    ) -> HistoryBatch:
        """Return a batch of the given dense-id histories; users default to 0, "unknown"."""
        lengths = [len(history) for history in histories]
        return cls(
            users=torch.tensor(users if users is not None else [0] * len(lengths)).long(),
            items=torch.from_numpy(
                np.concatenate([np.empty(0, np.int64), *histories]).astype(np.int64)
            ),
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)),
        )


@dataclass(frozen=True)
class Histories:
    """The histories of users 0..U (user 0 is unknown and has none).

    items: [R] int32, sorted by user, then time.
    starts, ends: [U + 1] int64; user u's history is items[starts[u]:ends[u]].
    """

    items: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @property
    def num_users(self) -> int:
        """Number of users U, without user 0."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """History lengths [U + 1]."""
        return self.ends - self.starts

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        return self.items[self.starts[user] : self.ends[user]]

    def rows(
        self, users: NDArray[np.integer], max_len: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (row indices [S], offsets [B + 1]) of the users' last `max_len` interactions."""
        starts, ends = self.starts[users], self.ends[users]
        if max_len is not None:
            starts = np.maximum(starts, ends - max_len)
        lengths = ends - starts
        offsets = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return rows, offsets

    def batch(self, users: NDArray[np.integer], max_len: int | None = None) -> HistoryBatch:
        """Return the users' histories, at most their last `max_len` items each."""
        rows, offsets = self.rows(users, max_len)
        return HistoryBatch(
            users=torch.from_numpy(np.asarray(users, dtype=np.int64)),
            items=torch.from_numpy(self.items[rows].astype(np.int64)),
            offsets=torch.from_numpy(offsets),
        )

    def flat(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return (users [S], items [S]) of all interactions, one entry per interaction."""
        rows, _ = self.rows(np.arange(self.num_users + 1))
        users = np.repeat(np.arange(self.num_users + 1), self.lengths)
        return users, self.items[rows]

    def user_blocks(self, max_rows: int) -> Iterator[NDArray[np.int64]]:
        """Yield all users 0..U in blocks of about `max_rows` interactions, at least one user."""
        total = max(int(self.lengths.sum()), 1)
        bounds = np.searchsorted(np.cumsum(self.lengths), np.arange(0, total, max_rows))
        for first, last in zip(bounds, [*bounds[1:], self.num_users + 1], strict=True):
            if last > first:
                yield np.arange(first, last)

    def item_counts(self, num_items: int) -> NDArray[np.int64]:
        """Return how often each item occurs [I + 1]."""
        counts = np.zeros(num_items + 1, dtype=np.int64)
        for users in self.user_blocks(COUNT_ROWS):
            rows, _ = self.rows(users)
            counts += np.bincount(self.items[rows], minlength=num_items + 1)
        return counts
