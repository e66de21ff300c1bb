"""How far the gates of a mixture model open: on average, and how much that differs by request.

A gate that is the same for every request does nothing that the layer behind it could not undo, so
the spread across requests says whether gates are used; the mean alone does not.
Shapes: B batch, T positions, E encoders, S requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories, HistoryBatch

NUM_USERS = 500
MAX_EVENTS = 1000  # of a history: its last ones, as if there were none before them
BATCH_TOKENS = 1 << 14  # padded positions at a time


class Gated(Protocol):
    """A model with gates."""

    @property
    def gate_names(self) -> Sequence[str]:
        """What is behind each gate."""

    def open_gates(self, items: Tensor) -> Tensor:
        """Return how far the gates are open behind every event [B, T, E] of items [B, T]."""


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


def measure_gates(
    model: Gated, histories: Histories, *, num_users: int = NUM_USERS
) -> list[GateSlice]:
    """Return the gates by history length: 1, 2 to 3, 4 to 7, ..., then of all requests.

    Every event of a history is a request that has it and all before it. Nothing for no events.

    Args:
        num_users: at most this many users with events, spread evenly over the ids.
    """
    users = np.flatnonzero(histories.lengths > 0)
    if len(users) == 0:
        return []
    chosen = np.unique(np.linspace(0, len(users) - 1, min(num_users, len(users)), dtype=np.int64))
    lengths, gates = _all_requests(model, histories.batch(users[chosen], MAX_EVENTS))
    slices, first = [], 1
    while first <= lengths.max():
        last = min(2 * first - 1, int(lengths.max()))
        slices.append(_slice(model, gates[(lengths >= first) & (lengths <= last)], first, last))
        first *= 2
    return [*slices, _slice(model, gates, 1, int(lengths.max()))]


@torch.no_grad()
def _all_requests(
    model: Gated, batch: HistoryBatch
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the history length [S] and the gates [S, E] of every request."""
    sizes = batch.offsets.diff()
    order = torch.argsort(sizes, descending=True, stable=True)
    lengths, gates, first = [], [], 0
    while first < len(order):
        longest = int(sizes[order[first]])
        rows = order[first : first + max(1, BATCH_TOKENS // longest)]
        items = batch.right_padded(rows, longest)
        is_real = torch.arange(longest) < sizes[rows, None]
        gates.append(model.open_gates(items)[is_real].double().numpy())
        lengths.append((torch.arange(longest) + 1).expand_as(is_real)[is_real].numpy())
        first += len(rows)
    return np.concatenate(lengths), np.concatenate(gates)


def _slice(model: Gated, gates: NDArray[np.float64], first: int, last: int) -> GateSlice:
    """Return the mean and the deviation of gates [S, E]."""
    return GateSlice(
        first=first,
        last=last,
        num_requests=len(gates),
        means=dict(zip(model.gate_names, gates.mean(axis=0).tolist(), strict=True)),
        deviations=dict(zip(model.gate_names, gates.std(axis=0).tolist(), strict=True)),
    )
