"""Results by popularity of the items, and by how many of them a user is to find.

Head, torso and tail share the interactions, "new" items have none.

Items are taken in descending number of interactions in the history part (ties: smaller id first).
An item belongs to the head while the items before it hold less than a third of all interactions,
to the torso while they hold less than two thirds, and to the tail after that.
In the same order, "top_tenth" is the first tenth of the items that occur at all, and "rest" all
other items, new ones too (Yao et al., CIKM 2021, arXiv:2007.12865, measure popular items so).

Users are cut at each k by their number of targets, n+ <= k and n+ > k: with few, pap@k is the
partial AUC of all of them; with many it is 1 where precision@k is.

Shapes: I items, S targets of all users, U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.intervals import Bootstrap
from ensue.evaluation.metrics import TargetRanks, slice_metrics

SLICES = ("head", "torso", "tail", "new")
TENTHS = ("top_tenth", "rest")
SHOWN_OF_USERS = ("precision", "recall", "ndcg", "pap", "pauc")  # at the k that cuts the users


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


def top_tenth(counts: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the part of each item [I + 1], as a position in TENTHS; -1 for padding.

    >>> top_tenth(np.array([0, 0, 2, 5, 1])).tolist()
    [-1, 1, 1, 0, 1]
    """
    parts = np.ones(len(counts), dtype=np.int8)
    parts[0] = -1
    order = np.argsort(-counts[1:], kind="stable") + 1
    parts[order[: -(-int((counts[1:] > 0).sum()) // 10)]] = 0
    return parts


def evaluate_slices(
    targets: TargetRanks,
    counts: NDArray[np.int64],
    *,
    ks: Sequence[int],
    bootstrap: Bootstrap,
) -> dict[str, dict[str, Any]]:
    """Return for each slice: numbers of items, users and targets, metrics and their intervals.

    The slices are those of SLICES, then those of TENTHS.

    A slice counts the users with a target in it, and only those targets; ranks stay what they are
    among the whole catalogue. A slice without targets has no metrics.

    Args:
        counts: [I + 1], interactions of each item in the history part.
    """
    results = {}
    for names, slice_of_item in (
        (SLICES, popularity_slices(counts)),
        (TENTHS, top_tenth(counts)),
    ):
        slice_of_target = slice_of_item[targets.items]
        for number, name in enumerate(names):
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


def slice_users(
    metrics: Mapping[str, NDArray[np.float64]],
    num_targets: NDArray[np.int64],
    *,
    ks: Sequence[int],
    bootstrap: Bootstrap,
) -> dict[str, dict[str, Any]]:
    """Return "targets<=k" and "targets>k" for each k: k, users, targets, metrics and intervals.

    The metrics are those at k and those without a cut-off. A k that does not divide the users is
    left out.

    Args:
        metrics: name -> values [U]; num_targets: [U].

    >>> metrics = {"map": np.array([0.5, 1.0, 0.0]), "hr@2": np.array([1.0, 1.0, 0.0])}
    >>> no_intervals = Bootstrap(0, 0.95, np.random.default_rng(0))
    >>> found = slice_users(metrics, np.array([1, 3, 2]), ks=[2, 5], bootstrap=no_intervals)
    >>> {name: part["metrics"] for name, part in found.items()}
    {'targets<=2': {'map': 0.25, 'hr@2': 0.5}, 'targets>2': {'map': 1.0, 'hr@2': 1.0}}
    """
    results = {}
    for k in ks:
        is_few = num_targets <= k
        if is_few.all() or not is_few.any():
            continue
        measured = {
            name: values
            for name, values in metrics.items()
            if "@" not in name or name.endswith(f"@{k}")
        }
        for name, is_in in ((f"targets<={k}", is_few), (f"targets>{k}", ~is_few)):
            part = {metric: values[is_in] for metric, values in measured.items()}
            results[name] = {
                "k": k,
                "users": int(is_in.sum()),
                "targets": int(num_targets[is_in].sum()),
                "metrics": {metric: float(values.mean()) for metric, values in part.items()},
                "intervals": bootstrap.intervals(part),
            }
    return results
