"""The rows of one task and slice: taken in any order, added up in two.

Shapes: n rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensue.data.ranking.schema import TaskKind
from ensue.evaluation.ranking import passes
from ensue.evaluation.ranking.external_sort import SortPool
from ensue.evaluation.ranking.records import (
    NO_GROUP,
    NUM_CLUSTERS,
    Rows,
    WeightSum,
    pack_by_group,
    pack_by_score,
    unpack_by_group,
    unpack_by_score,
)
from ensue.evaluation.ranking.summary import CURVE_STEPS, Sums


class Collector:
    """Takes rows, then adds them up by descending prediction and, with groups, by group."""

    def __init__(self, kind: TaskKind, pool: SortPool, *, has_groups: bool, num_bins: int) -> None:
        self._kind: TaskKind = kind
        self._num_bins = num_bins
        self._by_score = pool.sorter()
        self._by_group = pool.sorter() if has_groups and kind == "binary" else None
        self._has_groups = has_groups
        self._rows = self._positives = self._rows_without_group = 0
        self._weights = {True: WeightSum(), False: WeightSum()}

    def add(self, rows: Rows, groups: NDArray[np.int64]) -> None:
        """Take rows [n], and the group of each, NO_GROUP where it is not known."""
        is_positive = rows.label > 0
        self._rows += len(is_positive)
        self._positives += int(is_positive.sum())
        for label, weights in self._weights.items():
            weights.add(rows.weight[is_positive == label])
        self._by_score.add(*pack_by_score(rows))
        if self._by_group is not None:
            has_group = np.flatnonzero(groups != NO_GROUP)
            self._rows_without_group += len(groups) - len(has_group)
            self._by_group.add(*pack_by_group(rows.take(has_group), groups[has_group]))

    def finish(self) -> Sums:
        """Return the sums over all rows, which are gone after that."""
        positive, negative = self._weights[True].total(), self._weights[False].total()
        sums = Sums(
            kind=self._kind,
            is_clustered=self._has_groups,
            rows=self._rows,
            positives=self._positives,
            rows_without_group=self._rows_without_group,
            weight=positive + negative,
            positive_weight=positive,
            negative_weight=negative,
            bins=np.tile([0.0, 0.0, 0.0, 0.0, np.inf, -np.inf], (self._num_bins, 1)),
        )
        self._add_by_score(sums)
        if self._by_group is not None:
            self._add_by_group(sums)
        return sums

    def _add_by_score(self, sums: Sums) -> None:
        is_binary = self._kind == "binary"
        is_ranked = is_binary and sums.has_both_classes
        shift = np.nan
        totals = sums.positive_weight, sums.negative_weight
        tie = np.zeros(passes.TIE_FIELDS)
        tie[passes.T_SCORE] = np.nan  # equal to no score
        tie_by_cluster = np.zeros((NUM_CLUSTERS, 2))
        touched = np.zeros(NUM_CLUSTERS + 1, dtype=np.int64)
        num_points = np.array([0, CURVE_STEPS])
        ranks = (sums.ranks, tie, sums.rank_clusters, tie_by_cluster, touched)
        curve = sums.curve, num_points
        binned = np.zeros((1, 2)), np.array([np.nan, 0.0, 0.0, 0.0]), sums.bins
        for words in self._by_score.blocks():
            rows = unpack_by_score(*words)
            if np.isnan(shift):
                shift = float(rows.label[0])
            passes.add_moments(
                tuple(rows), is_binary, shift,
                sums.values, sums.products, sums.spread, sums.value_clusters,
            )  # fmt: skip
            passes.add_bins(tuple(rows), is_binary, sums.weight, *binned)
            if is_ranked:
                passes.add_ranks(tuple(rows), totals, *ranks, *curve)
        passes.close_bin(is_binary, sums.weight, *binned)
        if is_ranked:
            passes.close_tie(totals, *ranks, *curve)
            sums.num_points = int(num_points[0])

    def _add_by_group(self, sums: Sums) -> None:
        assert self._by_group is not None
        sums.groups = np.zeros((passes.GROUP_SUMS, 2))
        current = np.zeros(2, dtype=np.uint64)
        state = sums.groups, np.zeros(passes.OPEN_FIELDS), sums.group_counts
        for high, low in self._by_group.blocks():
            passes.add_groups(high, *unpack_by_group(low), current, *state)
        passes.close_group(*state)
