"""How far the gates of a mixture model open: on average, and how much that differs by request.

A gate that is the same for every request does nothing that the layer behind it could not undo, so
the spread across requests says whether gates are used; the mean alone does not.

Every event of a history is a request that has it and all before it; where the model reads the
context of requests, every event but the last, whose next request has not been made.
Shapes: B batch, T positions, E encoders, S requests, C context columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.context import ContextSchema, take_rows
from ensue.data.histories import Histories
from ensue.data.ids import IdMap

NUM_USERS = 500
MAX_EVENTS = 1000  # of a history: its last ones, as if there were none before them
MAX_VALUES = 10  # of a context column: its most frequent ones
BATCH_TOKENS = 1 << 14  # padded positions at a time

Floats = NDArray[np.float64]


class Gated(Protocol):
    """A model with gates."""

    @property
    def gate_names(self) -> Sequence[str]:
        """What is behind each gate."""

    def open_gates(
        self,
        items: Tensor,
        event_context: Tensor | None = None,
        request_context: Tensor | None = None,
    ) -> Tensor:
        """Return how far the gates are open behind every event [B, T, E] of items [B, T].

        Args:
            event_context, request_context: [B, T, C]; given where the histories have context.
        """


@dataclass(frozen=True)
class GateSlice:
    """Requests whose histories have first..last events; mean and standard deviation by gate."""

    first: int
    last: int
    num_requests: int
    means: dict[str, float]
    deviations: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the slice, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ContextGates:
    """Requests with one value of a categorical column; mean and standard deviation by gate.

    side: whether it is the context of the last event or of the request. value: None is missing.
    """

    side: Literal["event", "request"]
    column: str
    value: str | None
    num_requests: int
    means: dict[str, float]
    deviations: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the means and deviations, ready for JSON."""
        return asdict(self)


def measure_gates(
    model: Gated, histories: Histories, *, num_users: int = NUM_USERS
) -> list[GateSlice]:
    """Return the gates by history length: 1, 2 to 3, 4 to 7, ..., then of all requests.

    Nothing where there are no requests.

    Args:
        num_users: at most this many users with events, spread evenly over the ids.
    """
    found = _all_requests(model, histories, num_users)
    if found is None:
        return []
    longest, slices, first = int(found.lengths.max()), [], 1
    while first <= longest:
        last = min(2 * first - 1, longest)
        gates = found.gates[(found.lengths >= first) & (found.lengths <= last)]
        slices.append(GateSlice(first, last, **_summary(model, gates)))
        first *= 2
    return [*slices, GateSlice(1, longest, **_summary(model, found.gates))]


def measure_context_gates(
    model: Gated,
    histories: Histories,
    context: ContextSchema,
    values: Mapping[str, IdMap],
    *,
    num_users: int = NUM_USERS,
) -> list[ContextGates]:
    """Return the gates by the values of each categorical column, most frequent values first.

    Args:
        context: what the context columns of the histories hold.
        values: of each categorical column.
    """
    found = _all_requests(model, histories, num_users)
    return [] if found is None else list(_by_value(model, found, context, values))


@torch.no_grad()
def gates_of_history(
    model: Gated,
    items: NDArray[np.int64],
    event_context: NDArray[np.float64],
    request_context: NDArray[np.float64],
) -> dict[str, float]:
    """Return how far each gate opens behind the last of items [T]; nothing for no items.

    Args:
        event_context: [T, C] of the items. request_context: [C] of the request.
    """
    items, event_context = items[-MAX_EVENTS:], event_context[-MAX_EVENTS:]
    if len(items) == 0:
        return {}
    of_requests = np.tile(request_context, (len(items), 1))
    context = [torch.from_numpy(values)[None] for values in (event_context, of_requests)]
    read = context if any(values.shape[-1] for values in context) else []
    gates = model.open_gates(torch.from_numpy(items)[None], *read)[0, -1]
    return dict(zip(model.gate_names, gates.tolist(), strict=True))


@dataclass(frozen=True)
class _Requests:
    """History length [S], gates [S, E], and the context of last event and request [S, C]."""

    lengths: NDArray[np.int64]
    gates: Floats
    event: Floats
    request: Floats


@torch.no_grad()
def _all_requests(model: Gated, histories: Histories, num_users: int) -> _Requests | None:
    """Return all requests of some users; None where there are none."""
    if histories.request_context:
        histories = replace(histories, ends=np.maximum(histories.ends - 1, histories.starts))
    users = np.flatnonzero(histories.lengths > 0)
    if len(users) == 0:
        return None
    places = np.linspace(0, len(users) - 1, min(num_users, len(users)), dtype=np.int64)
    users = users[np.unique(places)]
    batch = histories.batch(users, MAX_EVENTS)
    rows, _ = histories.rows(users, MAX_EVENTS)
    event = torch.from_numpy(take_rows(histories.event_context, rows))
    request = torch.from_numpy(take_rows(histories.request_context, rows + 1))
    sizes = batch.offsets.diff()
    order = torch.argsort(sizes, descending=True, stable=True)
    parts, first = [], 0
    while first < len(order):
        longest = int(sizes[order[first]])
        chosen = order[first : first + max(1, BATCH_TOKENS // longest)]
        context = [batch.right_padded(chosen, longest, values) for values in (event, request)]
        read = context if histories.event_context or histories.request_context else []
        gates = model.open_gates(batch.right_padded(chosen, longest), *read)
        is_real = torch.arange(longest) < sizes[chosen, None]
        lengths = (torch.arange(longest) + 1).expand_as(is_real)
        tensors = (lengths, gates.double(), *context)
        parts.append([tensor[is_real].numpy() for tensor in tensors])
        first += len(chosen)
    return _Requests(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _by_value(
    model: Gated, found: _Requests, context: ContextSchema, values: Mapping[str, IdMap]
) -> Iterator[ContextGates]:
    sides: tuple[tuple[Literal["event", "request"], Floats], ...] = (
        ("event", found.event),
        ("request", found.request),
    )
    for side, numbers in sides:
        for place, column in enumerate(getattr(context, side)):
            if column.num_values is None:
                continue
            codes = numbers[:, place].astype(np.int64)
            counts = np.bincount(codes)
            frequent = np.argsort(-counts, kind="stable")[:MAX_VALUES]
            for code in frequent[counts[frequent] > 0].tolist():
                value = values[column.name].to_raw([code])[0] if code else None
                summary = _summary(model, found.gates[codes == code])
                yield ContextGates(side, column.name, value, **summary)


def _summary(model: Gated, gates: Floats) -> dict[str, Any]:
    """Return the number, the mean and the deviation of gates [S, E]."""
    return {
        "num_requests": len(gates),
        "means": dict(zip(model.gate_names, gates.mean(axis=0).tolist(), strict=True)),
        "deviations": dict(zip(model.gate_names, gates.std(axis=0).tolist(), strict=True)),
    }
