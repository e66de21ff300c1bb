"""Histories with a known answer: items on a ring, followed or ignored, as a knob says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.data.histories import Histories
from ensue.models.base import Model
from ensue.nn.jagged import row_numbers


def histories_of(lists: Sequence[Sequence[int]]) -> Histories:
    """Return the histories of users 1, 2, ..., given as lists of dense item ids."""
    lengths = np.array([0] + [len(history) for history in lists])
    ends = np.cumsum(lengths)
    items = np.array([item for history in lists for item in history], dtype=np.int32)
    return Histories(items, ends - lengths, ends)


@dataclass(frozen=True)
class Planted:
    """What a model may learn from, and the next item [U] of every user."""

    train: Histories
    targets: NDArray[np.int32]
    num_items: int

    @property
    def users(self) -> NDArray[np.int64]:
        """All users 1..U."""
        return np.arange(1, self.train.num_users + 1)

    def chance(self, k: int) -> float:
        """Return the hit rate at k of any model where the next item is noise: exactly this."""
        return k / (self.num_items - int(self.train.lengths[1]))


def plant(
    strength: float,
    *,
    num_users: int = 600,
    num_items: int = 60,
    length: int = 12,
    seed: int = 0,
) -> Planted:
    """Return histories without repeats of `length` items, the last of which is the target.

    Args:
        strength: probability that the next item is the first one not seen yet after the last one
            on the ring 1, 2, ..., I, 1; otherwise it is any item not seen yet, uniformly.
    """
    generator = np.random.default_rng(seed)
    histories = []
    for _ in range(num_users):
        unseen = list(range(1, num_items + 1))
        place = int(generator.integers(num_items))
        history = [unseen.pop(place)]
        while len(history) < length:
            if generator.random() >= strength:
                place = int(generator.integers(len(unseen)))
            place %= len(unseen)  # after a removal, the same place holds the next one on the ring
            history.append(unseen.pop(place))
        histories.append(history)
    whole = histories_of(histories)
    train = Histories(whole.items, whole.starts, np.maximum(whole.ends - 1, whole.starts))
    return Planted(train, whole.items[whole.ends[1:] - 1], num_items)


@torch.no_grad()
def hit_rate(model: Model, planted: Planted, k: int) -> float:
    """Return the share of users whose target is among their k best unseen items."""
    batch = planted.train.batch(planted.users)
    scores = model.score(batch)[:, : planted.num_items + 1].clone()
    scores[:, 0] = -torch.inf
    scores[row_numbers(batch.offsets), batch.items] = -torch.inf
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    hits = best == torch.from_numpy(planted.targets.astype(np.int64))[:, None]
    return float(hits.any(dim=1).double().mean())
