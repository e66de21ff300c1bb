"""Training on pAp@k itself: what users go on to take, against the best of what they do not.

The surrogates are those of `losses.papk`. Of any model, user by user: the history is cut at a
random place in its second half, the model scores the catalogue for what lies before the cut, and
the items behind it are the positives. All items that the user never takes are the negatives, or a
sample of them in a large catalogue: of N out of I items the best k N / I stand for the best k.
Only the scores of the positives and negatives that the loss counts pass a gradient on.
Shapes: B users of a batch, P positives, N negatives, S items of all histories, I items, U users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories, HistoryBatch
from ensue.losses.papk import PapkConfig, PapkForm, papk_loss
from ensue.models.base import Model
from ensue.nn.growing_items import see_items_
from ensue.training.objective import Batch, Objective

ALL_ITEMS = 50_000  # a catalogue up to which all items that a user does not take are negatives
MAX_POSITIVES = 200  # of a user in a step
NONE = torch.empty(0, dtype=torch.long)  # in a batch, in the place of what is not there


class PapkObjective(Objective):
    """A user's history up to a cut against what follows. An example is a user."""

    def __init__(
        self, model: Model, histories: Histories, config: PapkConfig, *, batch_size: int, seed: int
    ) -> None:
        self.config, self._histories, self._batch_size = config, histories, batch_size
        self._users = np.flatnonzero(histories.lengths >= 2)
        super().__init__(len(self._users), seed=seed)
        model.observe_(histories)
        self._max_len, self._num_items = model.max_len, model.num_items
        self._owned, self._owned_items = histories.distinct_items(model.num_items)
        drawn = config.num_negatives or (None if model.num_items <= ALL_ITEMS else 1000)
        self._num_drawn = None if drawn is None or drawn >= model.num_items else drawn
        self._form: PapkForm = config.form

    def start_epoch(self, model: Any, epoch: int, *, is_resumed: bool) -> dict[str, Any]:
        """Choose the surrogate of the epoch."""
        self._form = "avg" if epoch <= self.config.warmup_epochs else self.config.form
        return {"papk_form": self._form}

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield users [B], histories (items [S], offsets [B + 1]), positives [B, P], and what the
        users own (items, offsets), then drawn items [N] or none; contexts of the events and of the
        requests behind them, or none.
        """
        rng = np.random.default_rng(self.generator_state(epoch))
        users = rng.permutation(self._users)
        lengths = self._histories.lengths[users]
        ends = self._histories.ends.copy()
        ends[users] = self._histories.starts[users] + rng.integers((lengths + 1) // 2, lengths)
        before = replace(self._histories, ends=ends)
        for start in range(first * self._batch_size, len(users), self._batch_size):
            own = users[start : start + self._batch_size]
            yield self._make(own, before, self.generator(epoch, start + 1))

    def _make(
        self, users: NDArray[np.int64], before: Histories, generator: torch.Generator
    ) -> Batch:
        batch = before.batch(users, self._max_len, answers=before.ends[users])
        positives = self._positives(users, before)
        first, last = self._owned[users], self._owned[users + 1]
        offsets = np.concatenate([[0], np.cumsum(last - first)])
        rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], last - first)
        drawn = NONE
        if self._num_drawn is not None:
            drawn = torch.randperm(self._num_items, generator=generator)[: self._num_drawn] + 1
        context = [NONE if c is None else c for c in (batch.event_context, batch.request_context)]
        owned = torch.from_numpy(self._owned_items[rows].astype(np.int64))
        own = (batch.users, batch.items, batch.offsets, positives, owned, torch.from_numpy(offsets))
        return (*own, drawn, *context)

    def _positives(self, users: NDArray[np.int64], before: Histories) -> Tensor:
        """Return the distinct items behind the cuts that are not before them [B, P], padded by 0.

        Of more than MAX_POSITIVES items the first ones.
        """
        after = replace(self._histories, starts=before.ends)
        rows, offsets = after.rows(users)
        owners = np.repeat(np.arange(len(users)), np.diff(offsets))
        width = self._num_items + 1
        keys, places = np.unique(owners * width + self._histories.items[rows], return_index=True)
        earlier, earlier_offsets = before.rows(users)
        earlier_owners = np.repeat(np.arange(len(users)), np.diff(earlier_offsets))
        is_new = ~np.isin(keys, earlier_owners * width + self._histories.items[earlier])
        keys = keys[is_new][np.argsort(places[is_new])]  # in the order of time
        owners, items = np.divmod(keys, width)
        column = np.arange(len(keys)) - np.searchsorted(owners, np.arange(len(users)))[owners]
        kept = column < MAX_POSITIVES
        positives = np.zeros((len(users), int(column[kept].max(initial=0)) + 1), dtype=np.int64)
        positives[owners[kept], column[kept]] = items[kept]
        return torch.from_numpy(positives)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean surrogate of the users who have a positive."""
        users, items, offsets, positives, owned, owned_offsets, drawn, *contexts = batch
        event, request = (context if len(context) else None for context in contexts)
        see_items_(model, items, positives)
        scores = model.score(HistoryBatch(users, items, offsets, event, request))
        k, is_positive = self.config.k, positives > 0
        rows = torch.repeat_interleave(torch.arange(len(users)), owned_offsets.diff().cpu())
        is_negative = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        is_negative[:, 0] = False
        is_negative[rows.to(scores.device), owned] = False
        negatives = scores
        if len(drawn):
            negatives, is_negative = scores[:, drawn], is_negative[:, drawn]
            k = max(1, round(k * len(drawn) / self._num_items))
        losses = papk_loss(
            scores.gather(1, positives),
            negatives,
            k,
            form=self._form,
            is_positive=is_positive,
            is_negative=is_negative,
        )
        return losses.sum() / is_positive.any(1).sum().clamp(min=1)
