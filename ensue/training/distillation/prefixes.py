"""Every training query of a log: the history before each interaction, for any model.

Row r of the interactions is an event; its query is what the same user did before it.
Models of sequences answer all queries of a history in one pass. Where they read `max_len` events
at most, a longer history is read in stretches that overlap by half: a query then has between half
of `max_len` and `max_len` events behind it, or the whole history.
Shapes: Q queries, D width of a query, I items, G stretches, C context columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.context import take_rows
from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import Model
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.caser import Caser

SCORE_BYTES = 16 << 20  # of scores made at a time


@dataclass(frozen=True)
class Answers:
    """What a model answers to some queries.

    rows: [Q], the interaction that each query precedes. users: [Q].
    scores: [Q, I + 1]; column 0 (padding) has no meaning. May be written to, until the next ones.
    queries: [Q, D], what was matched with the items; None for a model without such vectors, and for
        histories without events.
    """

    rows: NDArray[np.int64]
    users: NDArray[np.int64]
    scores: Tensor
    queries: Tensor | None


@torch.inference_mode()
def answer_all(model: Model, histories: Histories) -> Iterator[Answers]:
    """Yield the model's scores for the query of every interaction, each once, in any order."""
    size = max(1, SCORE_BYTES // (4 * (model.num_items + 1)))
    if isinstance(model, SequenceModel):
        yield from _answer_sequences(model, histories, size)
    else:
        yield from _answer_prefixes(model, histories, size)


def _answer_sequences(model: SequenceModel, histories: Histories, size: int) -> Iterator[Answers]:
    """Yield the answers of a model that has a query behind every event."""
    buffer = model.log_popularity.new_empty(size, model.num_items + 1)
    known = np.flatnonzero(histories.lengths > 0)
    for first in range(0, len(known), size):
        users = known[first : first + size]
        scores = buffer[: len(users)].copy_(model.log_popularity)
        yield Answers(histories.starts[users], users, scores, None)
    for rows, users, queries in query_all(model, histories):
        for first in range(0, len(rows), size):
            part = slice(first, min(first + size, len(rows)))
            scores = model.match(queries[part], out=buffer[: part.stop - first])
            yield Answers(rows[part], users[part], scores, queries[part])


@torch.inference_mode()
def query_all(
    model: SequenceModel, histories: Histories
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Tensor]]:
    """Yield (rows [Q], users [Q], queries [Q, D]) of all interactions but the first of each user.

    The query of a first interaction is a history without events, which has no vector.
    """
    device = model.log_popularity.device
    stretches = _stretches(histories, model.max_len)
    stretches = stretches.take(np.argsort(-stretches.lengths, kind="stable"))
    first = 0
    while first < len(stretches.users):
        longest = int(stretches.lengths[first])
        part = stretches.take(np.arange(first, first + max(1, model.scored_tokens // longest)))
        positions = np.arange(longest)
        is_read = positions < part.lengths[:, None]
        events = np.where(is_read, part.starts[:, None] + positions, 0)
        items = torch.from_numpy(histories.items[events].astype(np.int64) * is_read)
        context = []
        if not model.context.is_empty:
            pairs = (histories.event_context, events), (histories.request_context, events + 1)
            context = [torch.from_numpy(take_rows(columns, rows)) for columns, rows in pairs]
        queries = model.encode(items.to(device), *(values.to(device) for values in context))
        is_used = is_read & (positions >= part.skipped[:, None])
        users = np.repeat(part.users, is_used.sum(axis=1))
        yield events[is_used] + 1, users, queries[torch.from_numpy(is_used).to(device)]
        first += len(part.users)


@dataclass(frozen=True)
class _Stretches:
    """Parts of histories that are read at once.

    users: [G]. starts, lengths: [G], in rows of the interactions. skipped: [G], first positions
    whose queries are not used.
    """

    users: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    skipped: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> _Stretches:
        """Return the stretches `index`, those past the end left out."""
        index = index[index < len(self.users)]
        return _Stretches(
            self.users[index], self.starts[index], self.lengths[index], self.skipped[index]
        )


def _stretches(histories: Histories, max_len: int | None) -> _Stretches:
    """Return stretches that cover all events with a later one, each event's query in one."""
    users = np.flatnonzero(histories.lengths > 1)
    totals = histories.lengths[users] - 1
    if max_len is None:
        return _Stretches(users, histories.starts[users], totals, np.zeros_like(totals))
    step = max(1, max_len // 2)
    counts = 1 + np.maximum(0, -(-(totals - max_len) // step))
    owner = np.repeat(np.arange(len(users)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = np.minimum(totals, max_len)[owner]
    starts = np.minimum(number * step, totals[owner] - lengths)  # the last one ends the history
    covered = np.where(number > 0, (number - 1) * step + max_len, 0)
    return _Stretches(
        users[owner], histories.starts[users][owner] + starts, lengths, covered - starts
    )


def _answer_prefixes(model: Model, histories: Histories, size: int) -> Iterator[Answers]:
    """Yield the answers of a model that is given each history anew, at most `max_len` events."""
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    for users in histories.user_blocks(max(size, 1 << 16)):
        rows, _ = histories.rows(users)
        owners = np.repeat(users, histories.lengths[users])
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            batch = prefix_batch(histories, owners[part], rows[part], model.max_len).to(device)
            queries = None
            if isinstance(model, Caser):
                queries = model(batch.users, batch.padded(model.config.window))
                scores = model.match(queries)
            else:
                scores = model.score(batch)
            yield Answers(rows[part], owners[part], scores, queries)


def prefix_batch(
    histories: Histories,
    users: NDArray[np.int64],
    rows: NDArray[np.int64],
    max_len: int | None,
) -> HistoryBatch:
    """Return the histories of users [Q] before their interactions `rows` [Q]."""
    lengths = rows - histories.starts[users]
    if max_len is not None:
        lengths = np.minimum(lengths, max_len)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = np.arange(offsets[-1]) + np.repeat(rows - lengths - offsets[:-1], lengths)
    of_event, of_request = (
        torch.from_numpy(take_rows(columns, places)) if columns else None
        for columns, places in (
            (histories.event_context, events),
            (histories.request_context, rows),
        )
    )
    return HistoryBatch(
        users=torch.from_numpy(users.astype(np.int64)),
        items=torch.from_numpy(histories.items[events].astype(np.int64)),
        offsets=torch.from_numpy(offsets.astype(np.int64)),
        event_context=of_event,
        request_context=of_request,
    )
