"""A history as the page shows it: what happened when, newest first, and how a model reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.gates import gates_of_history
from ensue.models.sequential.m3 import M3
from ensue.serving.live import LiveHistory
from ensue.serving.page.lists import Title
from ensue.serving.served import ServedModel

MAX_SHOWN = 30  # events


class Happened(NamedTuple):
    """An event. place: in the history, from 0. day, clock: when, in UTC; "" is unknown."""

    item: str
    title: str
    place: int
    day: str = ""
    clock: str = ""
    is_live: bool = False


@dataclass
class Timeline:
    """The last events of a history, newest first, and how many there are in all.

    is_known: whether the user was in the training data. items: raw ids, oldest first.
    unknown: items of events that the model does not know.
    """

    events: list[Happened] = field(default_factory=list)
    total: int = 0
    num_live: int = 0
    is_known: bool = True
    items: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def of_user(served: ServedModel, user: str, found: LiveHistory, title: Title) -> Timeline:
    """Return the timeline of a user."""
    recommender = served.run.recommender
    first = max(len(found.items) - MAX_SHOWN, 0)
    items = recommender.item_ids.to_raw(found.items[first:])
    moments = ["T"] * len(items)
    if found.times is not None:
        times = found.times[first:].astype("datetime64[us]")
        moments = np.datetime_as_string(times, unit="m").tolist()
    rows = zip(items, moments, found.is_live[first:].tolist(), strict=True)
    events = [
        Happened(item, title(item), first + n, *moment.split("T"), is_live=live)
        for n, (item, moment, live) in enumerate(rows)
    ]
    return Timeline(
        events=events[::-1],
        total=len(found.items),
        num_live=int(found.is_live.sum()),
        is_known=bool(recommender.user_ids.to_dense([user])[0]),
        items=items,
        unknown=list(dict.fromkeys(found.unknown_items)),
    )


def of_items(served: ServedModel, items: Sequence[str], title: Title) -> Timeline:
    """Return the timeline of a composed history."""
    events = [Happened(item, title(item), n) for n, item in enumerate(items)]
    unknown = [item for item in dict.fromkeys(items) if not served.knows(item)]
    return Timeline(events[::-1], len(items), items=list(items), unknown=unknown)


def open_gates(
    served: ServedModel, items: NDArray[np.int64], context: NDArray[np.float64] | None = None
) -> dict[str, float]:
    """Return how far a model's gates open for a history; nothing for a model without gates.

    Args:
        items: [n] in dense ids; 0 is an unknown item, and left out.
        context: [n, C] of the items; None is missing.
    """
    model = served.run.model
    if not isinstance(model, M3) or model.gate is None:
        return {}
    request = served.run.recommender.request(items[items > 0], event_context=context)
    return gates_of_history(model, request.items, request.event_context, request.context)
