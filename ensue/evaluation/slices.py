"""Results by popularity: head, torso and tail share the interactions, "new" items have none.

Items are taken in descending number of interactions in the history part (ties: smaller id first).
An item belongs to the head while the items before it hold less than a third of all interactions,
to the torso while they hold less than two thirds, and to the tail after that.

Shapes: I items, S targets of all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.intervals import Bootstrap
from ensue.evaluation.metrics import TargetRanks, slice_metrics

SLICES = ("head", "torso", "tail", "new")


def popularity_slices(counts: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the slice of each item [I + 1], as a position in SLICES; -1 for padding.

    >>> popularity_slices(np.array([0, 0, 2, 5, 1, 1])).tolist()
    [-1, 3, 1, 0, 2, 2]
    """
    slices = np.full(len(counts), -1, dtype=np.int8)
    order = np.argsort(-counts[1:], kind="stable") + 1
    ahead = np.cumsum(counts[order]) - counts[order]
    total = counts[1:].sum()
    slices[order] = (3 * ahead >= total).astype(np.int8) + (3 * ahead >= 2 * total)
    slices[1:][counts[1:] == 0] = SLICES.index("new")
    return slices


def evaluate_slices(
    targets: TargetRanks,
    slice_of_item: NDArray[np.int8],
    *,
    ks: Sequence[int],
    bootstrap: Bootstrap,
) -> dict[str, dict[str, Any]]:
    """Return for each slice: numbers of items, users and targets, metrics and their intervals.

    A slice counts the users with a target in it, and only those targets; ranks stay what they are
    among the whole catalogue. A slice without targets has no metrics.

    Args:
        slice_of_item: [I + 1], from `popularity_slices`.
    """
    results = {}
    slice_of_target = slice_of_item[targets.items]
    for number, name in enumerate(SLICES):
        part = targets.restrict(slice_of_target == number)
        metrics = slice_metrics(part, ks) if len(part.lengths) else {}
        results[name] = {
            "items": int((slice_of_item == number).sum()),
            "users": len(part.lengths),
            "targets": len(part.ranks),
            "metrics": {metric: float(values.mean()) for metric, values in metrics.items()},
            "intervals": bootstrap.intervals(metrics),
        }
    return results
