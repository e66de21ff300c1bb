"""What is added up while the rows of a task go by in order, compiled.

Three passes over the same rows, by descending prediction, and one over rows by group. Each carries
its state from block to block, so the blocks may have any size. Sums are compensated (Neumaier,
1974): a sum and what its additions lost, in arrays [..., 2].

Rows of equal prediction are a tie: they are summed up as they come and take effect together when
the next prediction is different, or the rows end.

Shapes: n rows; R clusters; X = 5 values of a row, see VALUES.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

# Of a binary task: log loss, squared error, probability; of a regression: squared error, absolute
# error, value. Then the label, and 1.
VALUES = ("first", "second", "prediction", "label", "one")
NUM_VALUES = len(VALUES)
NUM_PRODUCTS = NUM_VALUES * (NUM_VALUES + 1) // 2

# Fields of the rank pass: `sums` [RANK_SUMS, 2] and the open tie [TIE_FIELDS].
RANK_SUMS = 10
TP, FP, PAIRS, PRECISION, POS_SQUARE, POS_MISS, POS_MISS2, NEG_SQUARE, NEG_MISS, NEG_MISS2 = range(
    RANK_SUMS
)
TIE_FIELDS = 5
T_SCORE, T_POS, T_NEG, T_POS2, T_NEG2 = range(TIE_FIELDS)

# Fields of the group pass.
GROUP_SUMS = 5
G_WEIGHT, G_VALUE, G_WEIGHT2, G_WEIGHT2_VALUE, G_WEIGHT2_VALUE2 = range(GROUP_SUMS)
OPEN_FIELDS = 5
O_TP, O_FP, O_PAIRS, O_POS, O_NEG = range(OPEN_FIELDS)

_compile: Any = numba.njit(cache=True, nogil=True)


@_compile
def _add(sums, place, value):  # type: ignore[no-untyped-def]
    """Add a value to sums[place] = (sum, what was lost)."""
    total = sums[place, 0]
    new = total + value
    if abs(total) >= abs(value):
        sums[place, 1] += (total - new) + value
    else:
        sums[place, 1] += (value - new) + total
    sums[place, 0] = new


@_compile
def add_moments(  # type: ignore[no-untyped-def]
    rows, is_binary, shift, sums, products, spread, by_cluster
):
    """Add rows (prediction, label, weight, cluster, each [n]) to the sums of their values x.

    sums [X, 2]: w x. products [X (X + 1) / 2, 2]: w^2 x_a x_b, a <= b. spread [2, 2]: w (y - shift)
    and w (y - shift)^2. by_cluster [R, X]: w x of each cluster.
    """
    predictions, labels, weights, clusters = rows
    x = np.empty(NUM_VALUES)
    x[4] = 1.0
    for i in range(len(predictions)):
        z, y, w = np.float64(predictions[i]), np.float64(labels[i]), np.float64(weights[i])
        if is_binary:
            margin = -z if y > 0 else z
            small = math.exp(-abs(margin))
            wrong = (1.0 if margin >= 0 else small) / (1.0 + small)
            x[0] = max(margin, 0.0) + math.log1p(small)
            x[1] = wrong * wrong
            x[2] = (1.0 if z >= 0 else small) / (1.0 + small)
        else:
            x[0] = (z - y) * (z - y)
            x[1] = abs(z - y)
            x[2] = z
        x[3] = y
        place = 0
        for a in range(NUM_VALUES):
            _add(sums, a, w * x[a])
            by_cluster[clusters[i], a] += w * x[a]
            for b in range(a, NUM_VALUES):
                _add(products, place, (w * x[a]) * (w * x[b]))
                place += 1
        _add(spread, 0, w * (y - shift))
        _add(spread, 1, w * (y - shift) * (y - shift))


@_compile
def add_ranks(  # type: ignore[no-untyped-def]
    rows, totals, sums, tie, by_cluster, tie_by_cluster, touched, curve, num_points
):
    """Add rows by descending score to what AUC and average precision are made of.

    totals: (weight of all positives, of all negatives), both above 0. A row misses the share of
    the other class that is on the wrong side of it; V of `metrics.delong_variance` is 1 less that.

    sums [RANK_SUMS, 2]: weight of positives (TP) and negatives (FP) so far; w+ w- of pairs in
        order; w precision; then for each class the sums of w^2, w^2 miss and w^2 miss^2.
    tie [TIE_FIELDS]: of the open tie: score, w of positives and negatives, w^2 of both.
    by_cluster [R, 3]: w miss / total of the class, w of positives, w of negatives.
    tie_by_cluster [R, 2]: w of positives and negatives of the open tie; touched [R + 1]: the
        clusters it touches, after their number.
    curve [P, 2]: TP and FP where either grew by 1 / steps of its total; num_points [2]: points,
        and steps.
    """
    predictions, labels, weights, clusters = rows
    for i in range(len(predictions)):
        score, w, r = np.float64(predictions[i]), np.float64(weights[i]), clusters[i]
        if score != tie[T_SCORE]:
            close_tie(totals, sums, tie, by_cluster, tie_by_cluster, touched, curve, num_points)
            tie[T_SCORE] = score
        if tie_by_cluster[r, 0] + tie_by_cluster[r, 1] == 0:
            touched[0] += 1
            touched[touched[0]] = r
        if labels[i] > 0:
            tie[T_POS] += w
            tie[T_POS2] += w * w
            tie_by_cluster[r, 0] += w
        else:
            tie[T_NEG] += w
            tie[T_NEG2] += w * w
            tie_by_cluster[r, 1] += w


@_compile
def close_tie(  # type: ignore[no-untyped-def]
    totals, sums, tie, by_cluster, tie_by_cluster, touched, curve, num_points
):
    """Let the open tie take effect, and empty it."""
    pos, neg = tie[T_POS], tie[T_NEG]
    all_pos, all_neg = totals
    tp = sums[TP, 0] + sums[TP, 1]
    fp = sums[FP, 0] + sums[FP, 1]
    pos_miss = (fp + neg / 2) / all_neg
    neg_miss = (all_pos - tp - pos / 2) / all_pos
    if pos > 0:
        _add(sums, TP, pos)
        _add(sums, POS_SQUARE, tie[T_POS2])
        _add(sums, POS_MISS, tie[T_POS2] * pos_miss)
        _add(sums, POS_MISS2, tie[T_POS2] * pos_miss * pos_miss)
        _add(sums, PRECISION, pos * ((tp + pos) / (tp + pos + fp + neg)))
    if neg > 0:
        _add(sums, FP, neg)
        _add(sums, PAIRS, neg * (tp + pos / 2))
        _add(sums, NEG_SQUARE, tie[T_NEG2])
        _add(sums, NEG_MISS, tie[T_NEG2] * neg_miss)
        _add(sums, NEG_MISS2, tie[T_NEG2] * neg_miss * neg_miss)
    for place in range(1, touched[0] + 1):
        r = touched[place]
        own_pos, own_neg = tie_by_cluster[r]
        by_cluster[r, 0] += own_pos * pos_miss / all_pos + own_neg * neg_miss / all_neg
        by_cluster[r, 1] += own_pos
        by_cluster[r, 2] += own_neg
        tie_by_cluster[r, 0] = 0
        tie_by_cluster[r, 1] = 0
    touched[0] = 0
    steps = num_points[1]
    if int(steps * ((tp + pos) / all_pos)) > int(steps * (tp / all_pos)) or int(
        steps * ((fp + neg) / all_neg)
    ) > int(steps * (fp / all_neg)):
        curve[num_points[0], 0] = tp + pos
        curve[num_points[0], 1] = fp + neg
        num_points[0] += 1
    tie[T_POS:] = 0


@_compile
def add_bins(rows, is_binary, total, before, tie, bins):  # type: ignore[no-untyped-def]
    """Add rows by descending prediction to bins of equal weight, counted from the lowest.

    before [1, 2]: weight of the rows so far. tie [4]: prediction, w, w y and rows of the open tie.
    bins [bins, 6]: rows, w, w prediction, w y, smallest and largest prediction; the last two start
    as infinity and its opposite.
    """
    predictions, labels, weights, _ = rows
    for i in range(len(predictions)):
        if predictions[i] != tie[0]:
            close_bin(is_binary, total, before, tie, bins)
            tie[0] = np.float64(predictions[i])
        w = np.float64(weights[i])
        tie[1] += w
        tie[2] += w * np.float64(labels[i])
        tie[3] += 1


@_compile
def close_bin(is_binary, total, before, tie, bins):  # type: ignore[no-untyped-def]
    """Put the open tie into the bin that holds the middle of its weight, and empty it."""
    z, w = tie[0], tie[1]
    if w > 0:
        small = math.exp(-abs(z))
        prediction = (1.0 if z >= 0 else small) / (1.0 + small) if is_binary else z
        middle = total - (before[0, 0] + before[0, 1]) - w / 2
        place = min(int(middle / total * len(bins)), len(bins) - 1)
        own = bins[max(place, 0)]
        own[0] += tie[3]
        own[1] += w
        own[2] += w * prediction
        own[3] += tie[2]
        own[4] = min(own[4], prediction)
        own[5] = max(own[5], prediction)
        _add(before, 0, w)
    tie[1:] = 0


@_compile
def add_groups(  # type: ignore[no-untyped-def]
    groups, scores, weights, is_positive, current, sums, opened, counts
):
    """Add rows by group, then descending score, to the mean of AUC over groups.

    scores: what is equal for equal scores. current [2] uint64: the open group and tie; sums
    [GROUP_SUMS, 2]: of the groups that count, w, w a, w^2, w^2 a, w^2 a^2, a the AUC and w the
    weight of a group; opened [OPEN_FIELDS]: of the open group, weight of positives and negatives
    before the open tie, pairs in order, and weights of the open tie. counts [2]: groups that count,
    and groups left out.
    """
    for i in range(len(groups)):
        if groups[i] != current[0]:
            close_group(sums, opened, counts)
            current[0] = groups[i]
            current[1] = scores[i]
        elif scores[i] != current[1]:
            _close_group_tie(opened)
            current[1] = scores[i]
        opened[O_POS if is_positive[i] else O_NEG] += weights[i]


@_compile
def _close_group_tie(opened):  # type: ignore[no-untyped-def]
    opened[O_PAIRS] += opened[O_NEG] * (opened[O_TP] + opened[O_POS] / 2)
    opened[O_TP] += opened[O_POS]
    opened[O_FP] += opened[O_NEG]
    opened[O_POS] = 0
    opened[O_NEG] = 0


@_compile
def close_group(sums, opened, counts):  # type: ignore[no-untyped-def]
    """Let the open group take effect, and empty it."""
    _close_group_tie(opened)
    pos, neg = opened[O_TP], opened[O_FP]
    if pos > 0 and neg > 0:
        counts[0] += 1
        w, value = pos + neg, opened[O_PAIRS] / (pos * neg)
        _add(sums, G_WEIGHT, w)
        _add(sums, G_VALUE, w * value)
        _add(sums, G_WEIGHT2, w * w)
        _add(sums, G_WEIGHT2_VALUE, w * w * value)
        _add(sums, G_WEIGHT2_VALUE2, w * w * value * value)
    elif pos + neg > 0:
        counts[1] += 1
    opened[:] = 0
