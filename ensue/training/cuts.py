"""Users whose history is cut in two: what a model reads, and what it is to find.

The history is cut at a random place in its second half. Of a log without order a random half of it
at most is what is to be found, in every epoch another one, and of a single item all.
Shapes: B users of a batch, P positives, S items of all histories, I items, U users.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import Model
from ensue.nn.jagged import row_numbers
from ensue.training.objective import Batch, Objective

MAX_POSITIVES = 200  # of a user in a step
NONE = torch.empty(0, dtype=torch.long)  # in a batch, in the place of what is not there

Reading = Literal["before", "others"]


@dataclass(frozen=True)
class Cut:
    """A batch of cut histories.

    before: what is read; its users, items and offsets are the first tensors of a batch.
    positives: [B, P], the distinct items behind the cut that are not before it, padded by 0.
    owned, owned_offsets: the distinct items of all of the history; user b has those in
        owned_offsets[b]:owned_offsets[b + 1].
    drawn: what `CutObjective.draw` returned.
    """

    before: HistoryBatch
    positives: Tensor
    owned: Tensor
    owned_offsets: Tensor
    drawn: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Cut:
        """Return what the tensors of a batch are."""
        users, items, offsets, positives, owned, owned_offsets, drawn, *contexts = batch
        event, request = (context if len(context) else None for context in contexts)
        history = HistoryBatch(users, items, offsets, event, request)
        return cls(history, positives, owned, owned_offsets, drawn)

    def is_negative(self, num_items: int) -> Tensor:
        """Return which items [B, I + 1] the user never takes."""
        device = self.positives.device
        rows = row_numbers(self.owned_offsets, len(self.owned))
        flags = torch.ones(len(self.positives), num_items + 1, dtype=torch.bool, device=device)
        flags[:, 0] = False
        flags[rows, self.owned] = False
        return flags


class CutObjective(Objective):
    """A user's history up to a cut against what follows. An example is a user."""

    def __init__(
        self, model: Model, histories: Histories, *, reading: Reading, batch_size: int, seed: int
    ) -> None:
        self._histories, self._reading, self._batch_size = histories, reading, batch_size
        self._users = np.flatnonzero(histories.lengths >= (2 if reading == "before" else 1))
        super().__init__(len(self._users), seed=seed)
        model.observe_(histories)
        self._max_len, self._num_items = model.max_len, model.num_items
        self._owned, self._owned_items = histories.distinct_items(model.num_items)

    @abstractmethod
    def draw(self, users: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Return the items that are drawn for the users [B] of a batch; `NONE` for none."""

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield users [B], histories (items [S], offsets [B + 1]), positives [B, P], and what the
        users own (items, offsets), then drawn items or none; contexts of the events and of the
        requests behind them, or none. `Cut.of` gives them their names.
        """
        rng = np.random.default_rng(self.generator_state(epoch))
        users = rng.permutation(self._users)
        whole = self._histories if self._reading == "before" else shuffled(self._histories, rng)
        lengths = whole.lengths[users]
        ends = whole.ends.copy()
        ends[users] = whole.starts[users]
        ends[users] += rng.integers((lengths + 1) // 2 - (lengths == 1), lengths)
        before = replace(whole, ends=ends)
        after = replace(whole, starts=ends)
        for start in range(first * self._batch_size, len(users), self._batch_size):
            own = users[start : start + self._batch_size]
            yield self._make(own, before, after, self.generator(epoch, start + 1))

    def _make(
        self,
        users: NDArray[np.int64],
        before: Histories,
        after: Histories,
        generator: torch.Generator,
    ) -> Batch:
        batch = before.batch(users, self._max_len, answers=after.starts[users])
        positives = self._positives(users, before, after)
        first, last = self._owned[users], self._owned[users + 1]
        offsets = np.concatenate([[0], np.cumsum(last - first)])
        rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], last - first)
        context = [NONE if c is None else c for c in (batch.event_context, batch.request_context)]
        owned = torch.from_numpy(self._owned_items[rows].astype(np.int64))
        own = (batch.users, batch.items, batch.offsets, positives, owned, torch.from_numpy(offsets))
        return (*own, self.draw(users, generator), *context)

    def _positives(self, users: NDArray[np.int64], before: Histories, after: Histories) -> Tensor:
        """Return the distinct items behind the cuts that are not before them [B, P], padded by 0.

        Of more than MAX_POSITIVES items the first ones.
        """
        rows, offsets = after.rows(users)
        owners = np.repeat(np.arange(len(users)), np.diff(offsets))
        width = self._num_items + 1
        keys, places = np.unique(owners * width + after.items[rows], return_index=True)
        earlier, earlier_offsets = before.rows(users)
        earlier_owners = np.repeat(np.arange(len(users)), np.diff(earlier_offsets))
        is_new = ~np.isin(keys, earlier_owners * width + before.items[earlier])
        keys = keys[is_new][np.argsort(places[is_new])]  # in the order of time
        owners, items = np.divmod(keys, width)
        column = np.arange(len(keys)) - np.searchsorted(owners, np.arange(len(users)))[owners]
        kept = column < MAX_POSITIVES
        positives = np.zeros((len(users), int(column[kept].max(initial=0)) + 1), dtype=np.int64)
        positives[owners[kept], column[kept]] = items[kept]
        return torch.from_numpy(positives)


def shuffled(histories: Histories, rng: np.random.Generator) -> Histories:
    """Return the same histories, each in random order."""
    users = np.arange(histories.num_users + 1)
    rows, offsets = histories.rows(users)
    owners = np.repeat(users, histories.lengths)
    rows = rows[np.lexsort((rng.random(len(rows)), owners))]
    return Histories(
        histories.items[rows],
        offsets[:-1],
        offsets[1:],
        tuple(column[rows] for column in histories.event_context),
        tuple(column[rows] for column in histories.request_context),
    )
