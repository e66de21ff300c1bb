"""Answers to many requests at once, as arrays: no object is made for a request.

The answers are those of `Recommender.recommend`, in blocks of the same size.
Shapes: B requests, I items, C context columns, k answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import RunError, UsageError
from ensue.indexes.base import Index
from ensue.indexes.vectors import model_queries
from ensue.runs.recommend import BLOCK_BYTES, MAX_REQUESTS, Recommender
from ensue.runs.requests import NOT_FINITE, finite
from ensue.runs.retrieve import retrieve
from ensue.runs.top_items import top_items


@dataclass(frozen=True)
class ManyRequests:
    """Requests in dense ids.

    users: [B] int64; 0 is unknown.
    histories: where their histories are: those of the known users, or any others.
    rows: [B] int64, which of `histories` each request has.
    context: [B, C] of the requests.
    """

    users: NDArray[np.int64]
    histories: Histories
    rows: NDArray[np.int64]
    context: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> ManyRequests:
        return ManyRequests(
            self.users[chosen], self.histories, self.rows[chosen], self.context[chosen]
        )


@dataclass(frozen=True)
class ManyAnswers:
    """Dense ids [B, k] and scores [B, k] float32 of the best items, best first.

    Where a request has fewer than k answers, the rest of its row has id 0 and score -inf.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]


class ManyRecommender:
    """Answers many requests with the same wishes; `Recommender.recommend` has their meaning.

    Raises:
        UsageError: k < 1.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] | None = None,
        index: Index | None = None,
    ) -> None:
        if k < 1:
            raise UsageError(f"recommend needs k >= 1; got {k}.")
        self.k = min(k, recommender.model.num_items)
        self.exclude_seen, self.index = exclude_seen, index
        self._recommender, self._model = recommender, recommender.model
        self._hidden = recommender._hidden(allow, deny)
        self._hidden_columns = torch.from_numpy(np.flatnonzero(self._hidden))

    def answer(self, requests: ManyRequests) -> ManyAnswers:
        """Return the best items of each request."""
        if self.index is None:
            return self._score_all(requests)
        answers, is_open = self._ask(self.index, requests)
        rest = self._score_all(requests[is_open])
        answers.items[is_open], answers.scores[is_open] = rest.items, rest.scores
        return answers

    def _score_all(self, requests: ManyRequests) -> ManyAnswers:
        """Return the answers by the scores of all items."""
        size = max(1, min(MAX_REQUESTS, BLOCK_BYTES // (4 * (self._model.num_items + 1))))
        answers = self._no_answers(len(requests))
        for start in range(0, len(requests), size):
            block = slice(start, start + size)
            items, values = self._best(requests[block])
            answers.items[block], answers.scores[block] = items.numpy(), values.numpy()
        return answers

    def _best(self, requests: ManyRequests) -> tuple[Tensor, Tensor]:
        """Return ids and scores [B, k] of the best items for one block of requests."""
        scores = finite(self._recommender._score(self._batch(requests)))
        scores.index_fill_(1, self._hidden_columns, -torch.inf)
        if self.exclude_seen:
            items, offsets = self._seen(requests)
            starts = np.arange(len(requests)) * scores.shape[1]
            places = np.repeat(starts, np.diff(offsets)) + items
            scores.view(-1).index_fill_(0, torch.from_numpy(places), -torch.inf)
        return top_items(scores, self.k)

    def _seen(self, requests: ManyRequests) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the items [S] of the whole histories, and their offsets [B + 1]."""
        rows, offsets = requests.histories.rows(requests.rows)
        return requests.histories.items[rows].astype(np.int64), offsets

    def _ask(self, index: Index, requests: ManyRequests) -> tuple[ManyAnswers, NDArray[np.int64]]:
        """Return the answers of an index, and the requests that it leaves open."""
        answers = self._no_answers(len(requests))
        is_open = []
        for start in range(0, len(requests), MAX_REQUESTS):
            block = requests[start : start + MAX_REQUESTS]
            queries = model_queries(self._model, self._batch(block))
            if not np.isfinite(queries).all():
                raise RunError(NOT_FINITE)
            seen = [np.empty(0, dtype=np.int64)] * len(block)
            if self.exclude_seen:
                items, offsets = self._seen(block)
                seen = np.split(items, offsets[1:-1])
            found = retrieve(index, queries, seen, self._hidden, self.k)
            for row, best in enumerate(found, start):
                if best is None:
                    is_open.append(row)
                else:
                    count = len(best[0])
                    answers.items[row, :count], answers.scores[row, :count] = best
        return answers, np.array(is_open, dtype=np.int64)

    def _batch(self, requests: ManyRequests) -> HistoryBatch:
        """Return what the model reads of the requests."""
        batch = requests.histories.batch(requests.rows, self._model.max_len)
        batch = replace(batch, users=torch.from_numpy(requests.users))
        if self._model.context.is_empty:
            return batch
        event = batch.event_context
        if event is None:  # nothing is known of it
            missing = self._recommender.encoder.encode_event({})[0]
            event = torch.from_numpy(np.tile(missing, (len(batch.items), 1)))
        context = torch.from_numpy(requests.context)
        return replace(batch, event_context=event, request_context=context)

    def _no_answers(self, num_requests: int) -> ManyAnswers:
        shape = num_requests, self.k
        return ManyAnswers(
            np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
        )
