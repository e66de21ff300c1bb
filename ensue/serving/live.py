"""A user's history as a model reads it: what the run stores of training, then what came live.

An event of the store that has the item and the time of one that the run stores is that event: logs
that hold live events may be trained on, and no event counts twice. Where the log has no times, all
live events follow the stored ones.
Shapes: n events, C context columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.data.context import ContextEncoder, take_rows
from ensue.errors import UsageError
from ensue.runs.run import Run
from ensue.serving.events import Event


class LiveHistory(NamedTuple):
    """Events in dense ids, oldest first.

    items: [n]. context: [n, C]. times: [n] microseconds; None where the log has no times.
    is_live: [n], whether the event came from the store.
    unknown_items: of events that the model does not know; they are left out.
    """

    items: NDArray[np.int64]
    context: NDArray[np.float64]
    times: NDArray[np.int64] | None
    is_live: NDArray[np.bool_]
    unknown_items: list[str]


def live_history(run: Run, user: str, events: Sequence[Event]) -> LiveHistory:
    """Return the history of a user, known to the run or not, with the events of a store.

    Args:
        events: oldest first.
    """
    recommender = run.recommender
    histories = recommender.histories
    dense_user = int(recommender.user_ids.to_dense([user])[0])
    first, end = int(histories.starts[dense_user]), int(histories.ends[dense_user])
    stored = LiveHistory(
        items=histories.items[first:end].astype(np.int64),
        context=take_rows(histories.event_context, np.arange(first, end)),
        times=None if run.times is None else run.times[first:end],
        is_live=np.zeros(end - first, dtype=bool),
        unknown_items=[],
    )
    if not events:
        return stored
    dense = recommender.item_ids.to_dense([event.item for event in events])
    known = [event for event, item in zip(events, dense.tolist(), strict=True) if item > 0]
    unknown = [event.item for event, item in zip(events, dense.tolist(), strict=True) if item == 0]
    fresh = LiveHistory(
        dense[dense > 0],
        _context(run, known),
        np.array([event.time for event in known], dtype=np.int64),
        np.ones(len(known), dtype=bool),
        unknown,
    )
    return _join(stored, fresh)


def _join(stored: LiveHistory, fresh: LiveHistory) -> LiveHistory:
    """Return both in the order of time; of two that are the same event, the stored one."""
    if stored.times is None or fresh.times is None:
        times = fresh.times if len(stored.items) == 0 else None
        order = np.arange(len(stored.items) + len(fresh.items))
    else:
        if len(stored.times) and len(fresh.times) and fresh.times[0] <= stored.times.max():
            have = set(zip(stored.items.tolist(), stored.times.tolist(), strict=True))
            pairs = zip(fresh.items.tolist(), fresh.times.tolist(), strict=True)
            is_new = np.array([pair not in have for pair in pairs], dtype=bool)
            fresh = fresh._replace(
                items=fresh.items[is_new],
                context=fresh.context[is_new],
                times=fresh.times[is_new],
                is_live=fresh.is_live[is_new],
            )
        times = np.concatenate([stored.times, fresh.times])
        order = np.argsort(times, kind="stable")
        times = times[order]
    return LiveHistory(
        np.concatenate([stored.items, fresh.items])[order],
        np.concatenate([stored.context, fresh.context])[order],
        times,
        np.concatenate([stored.is_live, fresh.is_live])[order],
        fresh.unknown_items,
    )


def _context(run: Run, events: Sequence[Event]) -> NDArray[np.float64]:
    """Return the context [n, C] of live events; what the model cannot read of it is missing."""
    encoder = run.recommender.encoder
    names = {column.name for column in encoder.schema.event}
    rows = [_encode(encoder, names, event.context) for event in events]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(names))


def _encode(
    encoder: ContextEncoder, names: set[str], context: Mapping[str, Any]
) -> NDArray[np.float64]:
    values = {name: value for name, value in context.items() if name in names}
    try:
        numbers, _ = encoder.encode_event(values)
    except UsageError:  # a number that is none, sent when another model was served
        numbers, _ = encoder.encode_event({})
    return numbers
