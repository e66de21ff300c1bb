"""Ranking metrics of each user, from the exact ranks of the user's targets.

For one user: R is the set of targets, r_1 < r_2 < ... their ranks (1 is best), n the length of the
ranking. A target that cannot be ranked stays in R with rank infinity, so it is never hit.
FORMULAS holds the definitions.

Shapes: U users, S targets of all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FORMULAS = {
    "hr@k": "1 if the best rank is <= k, else 0",
    "precision@k": "targets with rank <= k / min(k, length of the ranking)",
    "recall@k": "targets with rank <= k / targets",
    "ndcg@k": "sum of 1/log2(1 + rank) over ranks <= k / its value for ranks 1..min(targets, k)",
    "map@k": "sum of j/r_j over ranks r_j <= k / min(targets, k); r_j is the j-th smallest rank",
    "mrr@k": "1 / best rank if it is <= k, else 0",
    "pap@k": "share of pairs (one of the first min(k, targets) targets, one of the first min(k, "
    "others) others) where the target is ranked first",
    "pauc@k": "the same of all targets and the first min(k, others) others",
    "map": "sum of j/r_j / targets, over the whole ranking; r_j is the j-th smallest rank",
    "mrr": "1 / best rank, over the whole ranking",
}


@dataclass(frozen=True)
class TargetRanks:
    """Ranks of the targets of U users, each of whom has at least one.

    users: [S] int64, position 0..U-1 of the user of each target, ascending.
    items: [S] int32, the targets.
    ranks: [S] float64, ascending for each user; 1 is best, infinity is "never".
    lengths: [U] int64, the length of each user's ranking.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int32]
    ranks: Floats
    lengths: NDArray[np.int64]

    @classmethod
    def sort(
        cls,
        users: NDArray[np.int64],
        items: NDArray[np.int32],
        ranks: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> TargetRanks:
        """Return the ranks in order; a rank of 0 stands for "never"."""
        values = np.where(ranks > 0, ranks, np.inf)
        order = np.lexsort((values, users))
        return cls(users[order], items[order], values[order], lengths)

    @classmethod
    def of(cls, ranks: Sequence[Sequence[int]], *, length: int) -> TargetRanks:
        """Return the given ranks of users 0, 1, ..., whose rankings hold `length` items."""
        users = np.repeat(np.arange(len(ranks)), [len(own) for own in ranks])
        flat = np.array([rank for own in ranks for rank in own], dtype=np.int64)
        items = np.zeros(len(flat), dtype=np.int32)
        return cls.sort(users, items, flat, np.full(len(ranks), length))

    def restrict(self, keep: NDArray[np.bool_]) -> TargetRanks:
        """Return the ranks of some targets [S], and of the users who have any of them."""
        users, position = np.unique(self.users[keep], return_inverse=True)
        return TargetRanks(position, self.items[keep], self.ranks[keep], self.lengths[users])

    def sum(self, values: NDArray[np.generic]) -> Floats:
        """Return the sum [U] of `values` [S] over each user's targets."""
        sums = np.bincount(self.users, weights=values, minlength=len(self.lengths))
        return cast(Floats, sums)

    @cached_property
    def num_targets(self) -> NDArray[np.int64]:
        """Number of targets |R| of each user [U]."""
        return np.bincount(self.users, minlength=len(self.lengths))

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """Position j = 1..|R| of each target among the targets of its user [S]."""
        first = np.cumsum(self.num_targets) - self.num_targets
        return np.arange(1, len(self.ranks) + 1) - first[self.users]


def hit_rate(targets: TargetRanks, k: int) -> Floats:
    """Return hr@k [U].

    >>> hit_rate(TargetRanks.of([[3, 9], [6]], length=20), k=5).tolist()
    [1.0, 0.0]
    """
    return (targets.sum(targets.ranks <= k) > 0).astype(np.float64)


def precision(targets: TargetRanks, k: int) -> Floats:
    """Return precision@k [U]; 0 for a user with no candidates.

    >>> precision(TargetRanks.of([[1, 4, 10]], length=20), k=5).tolist()
    [0.4]
    """
    return targets.sum(targets.ranks <= k) / np.clip(targets.lengths, 1, k)


def recall(targets: TargetRanks, k: int) -> Floats:
    """Return recall@k [U].

    >>> recall(TargetRanks.of([[1, 4, 10, 30]], length=50), k=5).tolist()
    [0.5]
    """
    return targets.sum(targets.ranks <= k) / targets.num_targets


def ndcg(targets: TargetRanks, k: int) -> Floats:
    """Return ndcg@k [U]: one target at rank 3 gives (1 / log2(4)) / (1 / log2(2)).

    >>> ndcg(TargetRanks.of([[3]], length=20), k=5).tolist()
    [0.5]
    """
    gains = np.where(targets.ranks <= k, 1 / np.log2(1 + targets.ranks), 0.0)
    # The ideal depends on |R| up to k alone, so its table is no longer than the largest |R|.
    most = min(k, int(targets.num_targets.max(initial=1)))
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, most + 1)))
    return targets.sum(gains) / ideal[np.minimum(targets.num_targets, k) - 1]


def average_precision(targets: TargetRanks, k: int | None = None) -> Floats:
    """Return the average precision [U] of each user, whose mean is map or map@k.

    >>> average_precision(TargetRanks.of([[1, 4, 10]], length=20)).round(9).tolist()
    [0.6]
    """
    precisions = targets.positions / targets.ranks
    if k is None:
        return targets.sum(precisions) / targets.num_targets
    hits = np.where(targets.ranks <= k, precisions, 0.0)
    return targets.sum(hits) / np.minimum(targets.num_targets, k)


def reciprocal_rank(targets: TargetRanks, k: int | None = None) -> Floats:
    """Return the reciprocal rank [U] of each user's best target, whose mean is mrr or mrr@k.

    >>> reciprocal_rank(TargetRanks.of([[4, 10]], length=20)).tolist()
    [0.25]
    """
    is_best = targets.positions == 1
    if k is not None:
        is_best &= targets.ranks <= k
    return targets.sum(np.where(is_best, 1 / targets.ranks, 0.0))


def partial_auc(targets: TargetRanks, k: int, *, all_targets: bool = False) -> Floats:
    """Return pap@k [U], or pauc@k of all targets; `evaluation.papk` has its source.

    Ties are decided by the rule of the ranking. 1 for a user to whom nothing else was ranked.

    >>> partial_auc(TargetRanks.of([[2, 4, 5, 8]], length=8), k=2).tolist()
    [0.25]
    """
    num_ranked = targets.sum(np.isfinite(targets.ranks)).astype(np.int64)
    wide = np.clip(targets.lengths - num_ranked, 0, k)[targets.users]
    ahead = np.minimum(targets.ranks - targets.positions, wide)
    won = np.where(wide > 0, (wide - ahead) / np.maximum(wide, 1), np.isfinite(targets.ranks))
    if all_targets:
        return targets.sum(won) / targets.num_targets
    is_first = targets.positions <= k
    return targets.sum(np.where(is_first, won, 0.0)) / np.minimum(targets.num_targets, k)


def all_metrics(targets: TargetRanks, ks: Sequence[int]) -> dict[str, Floats]:
    """Return every metric [U], by name: "map", "mrr", then "hr@1", "precision@1", ..."""
    metrics = {"map": average_precision(targets), "mrr": reciprocal_rank(targets)}
    for k in ks:
        metrics[f"hr@{k}"] = hit_rate(targets, k)
        metrics[f"precision@{k}"] = precision(targets, k)
        metrics[f"recall@{k}"] = recall(targets, k)
        metrics[f"ndcg@{k}"] = ndcg(targets, k)
        metrics[f"map@{k}"] = average_precision(targets, k)
        metrics[f"mrr@{k}"] = reciprocal_rank(targets, k)
        metrics[f"pap@{k}"] = partial_auc(targets, k)
        metrics[f"pauc@{k}"] = partial_auc(targets, k, all_targets=True)
    return metrics


def slice_metrics(targets: TargetRanks, ks: Sequence[int]) -> dict[str, Floats]:
    """Return the metrics [U] that have a meaning for part of a user's targets."""
    metrics = {"map": average_precision(targets)}
    for k in ks:
        metrics[f"recall@{k}"] = recall(targets, k)
        metrics[f"ndcg@{k}"] = ndcg(targets, k)
    return metrics
