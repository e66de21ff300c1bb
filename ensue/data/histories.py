"""A user's history is a slice of one long array of items; batches of histories are jagged.

```
items    [ 7 3 9 | 4 | 5 5 2 8 ]        user 1: 7 3 9    user 2: 4    user 3: 5 5 2 8
starts   user 1 -> 0   user 2 -> 3   user 3 -> 4
ends     user 1 -> 3   user 2 -> 4   user 3 -> 8
```

Shortening every history to its training part moves `ends`; no item is copied. Context columns,
where a model reads any, are arrays beside `items`; data.context says what is in them.
Shapes: U users, R interactions, B batch, S items in a batch of histories, T padded length, C
context columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.context import take_rows
from ensue.data.features import FeatureTable

COUNT_ROWS = 1 << 22  # interactions counted at a time


@dataclass(frozen=True)
class HistoryBatch:
    """Histories of B users, oldest item first.

    users: [B] int64; 0 is a user never seen in training.
    items: [S] int64, the histories one after the other.
    offsets: [B + 1] int64; history b is items[offsets[b]:offsets[b + 1]].
    event_context: [S, C] float64, beside the items; None where no model reads it, or it is unknown.
    request_context: [B, C] float64, of the request that each history is to answer; None likewise.
    user_features: of the B users, in place of what a model stores of them; None is what it stores.
    """

    users: Tensor
    items: Tensor
    offsets: Tensor
    event_context: Tensor | None = None
    request_context: Tensor | None = None
    user_features: FeatureTable | None = None

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

    def right_padded(self, rows: Tensor, max_len: int, values: Tensor | None = None) -> Tensor:
        """Return histories `rows` [n] from their first item on [n, max_len], 0 behind the end.

        Args:
            values: [S] or [S, C], what to return in place of the items.
        """
        position = self.offsets[rows, None] + torch.arange(max_len, device=self.items.device)
        is_real = position < self.offsets[rows + 1, None]
        position = position.clamp(max=len(self.items) - 1)
        if values is None:
            return self.items[position] * is_real
        is_padding = ~is_real.view(*is_real.shape, *[1] * (values.dim() - 1))
        return values[position].masked_fill(is_padding, 0)  # a missing number is NaN

    def without_padding(self) -> HistoryBatch:
        """Return the batch without items 0."""
        is_real = self.items > 0
        if bool(is_real.all()):
            return self
        kept = torch.cat([is_real.new_zeros(1), is_real]).cumsum(0)
        return self._keep(is_real, kept[self.offsets])

    def last(self, max_len: int | None) -> HistoryBatch:
        """Return the batch with the last `max_len` items of each history; None is all of them."""
        lengths = self.offsets.diff()
        if max_len is None or len(lengths) == 0 or int(lengths.max()) <= max_len:
            return self
        from_end = self.offsets[1:].repeat_interleave(lengths) - torch.arange(
            len(self.items), device=self.items.device
        )
        offsets = torch.cat([lengths.new_zeros(1), lengths.clamp(max=max_len).cumsum(0)])
        return self._keep(from_end <= max_len, offsets)

    def _keep(self, is_kept: Tensor, offsets: Tensor) -> HistoryBatch:
        """Return the batch with the items that is_kept [S] marks, and its new offsets."""
        context = None if self.event_context is None else self.event_context[is_kept]
        return replace(self, items=self.items[is_kept], offsets=offsets, event_context=context)

    def to(self, device: torch.device | str) -> HistoryBatch:
        """Return the batch on `device`."""
        event, request = self.event_context, self.request_context
        return replace(
            self,
            users=self.users.to(device),
            items=self.items.to(device),
            offsets=self.offsets.to(device),
            event_context=None if event is None else event.to(device),
            request_context=None if request is None else request.to(device),
        )

    @classmethod
    def from_lists(
        cls,
        histories: Sequence[Sequence[int] | NDArray[np.int64]],
        users: Sequence[int] | None = None,
        *,
        event_context: Sequence[NDArray[np.float64]] | None = None,
        request_context: Sequence[NDArray[np.float64]] | None = None,
        user_features: FeatureTable | None = None,
    ) -> HistoryBatch:
        """Return a batch of the given dense-id histories; users default to 0, "unknown".

        Args:
            event_context: [n, C] of each history, n its length.
            request_context: [C] of each history.
            user_features: a row for each history, behind that of padding.
        """
        event, request = event_context, request_context
        lengths = [len(history) for history in histories]
        return cls(
            users=torch.from_numpy(
                np.array(users if users is not None else [0] * len(lengths), dtype=np.int64)
            ),
            items=torch.from_numpy(
                np.concatenate([np.empty(0, np.int64), *histories]).astype(np.int64, copy=False)
            ),
            offsets=torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int64)),
            event_context=torch.from_numpy(np.concatenate(event)) if event else None,
            request_context=torch.from_numpy(np.stack(request)) if request else None,
            user_features=user_features,
        )


@dataclass(frozen=True)
class Histories:
    """The histories of users 0..U (user 0 is unknown and has none).

    items: [R] int32, sorted by user, then time.
    starts, ends: [U + 1] int64; user u's history is items[starts[u]:ends[u]].
    event_context, request_context: C columns [R] each, beside the items: what a model reads of past
        events, and of the request that the event is the answer to. Empty where no model reads any.
    """

    items: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    event_context: tuple[NDArray[Any], ...] = ()
    request_context: tuple[NDArray[Any], ...] = ()

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

    def batch(
        self,
        users: NDArray[np.integer],
        max_len: int | None = None,
        *,
        answers: NDArray[np.int64] | None = None,
    ) -> HistoryBatch:
        """Return the users' histories, at most their last `max_len` items each.

        Args:
            answers: [B], the row of the event that answers each user's request, for what is read of
                the request's context; None leaves it unknown.
        """
        rows, offsets = self.rows(users, max_len)
        event = (
            torch.from_numpy(take_rows(self.event_context, rows)) if self.event_context else None
        )
        request = None
        if self.request_context and answers is not None:
            request = torch.from_numpy(take_rows(self.request_context, answers))
        return HistoryBatch(
            users=torch.from_numpy(np.asarray(users, dtype=np.int64)),
            items=torch.from_numpy(self.items[rows].astype(np.int64)),
            offsets=torch.from_numpy(offsets),
            event_context=event,
            request_context=request,
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

    def distinct_items(self, num_items: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return (offsets [U + 2], items): user u has the items in offsets[u]:offsets[u + 1].

        They ascend. Memory: 4 bytes for each distinct (user, item) pair.
        """
        users, items = self.flat()
        keys = np.unique(users * (num_items + 1) + items)
        owners, distinct = np.divmod(keys, num_items + 1)
        return np.searchsorted(owners, np.arange(self.num_users + 2)), distinct.astype(np.int32)

    def item_counts(self, num_items: int) -> NDArray[np.int64]:
        """Return how often each item occurs [I + 1]."""
        counts = np.zeros(num_items + 1, dtype=np.int64)
        for users in self.user_blocks(COUNT_ROWS):
            rows, _ = self.rows(users)
            counts += np.bincount(self.items[rows], minlength=num_items + 1)
        return counts

    def mean_and_deviation(self, column: NDArray[Any]) -> tuple[float, float]:
        """Return mean and standard deviation of a column [R] over the rows of the histories.

        NaN and infinity do not count; the deviation is 1 where all others are the same number, and
        (0, 1) is of none.
        """
        count, mean, squares = 0, 0.0, 0.0
        low, high = np.inf, -np.inf
        for users in self.user_blocks(COUNT_ROWS):
            rows, _ = self.rows(users)
            values = column[rows]
            values = values[np.isfinite(values)]
            if len(values) == 0:
                continue
            low, high = min(low, values.min()), max(high, values.max())
            shift = values.mean() - mean
            total = count + len(values)
            squares += np.square(values - values.mean()).sum()
            squares += shift**2 * count * len(values) / total
            mean += shift * len(values) / total
            count = total
        return float(mean), float((squares / count) ** 0.5) if high > low else 1.0
