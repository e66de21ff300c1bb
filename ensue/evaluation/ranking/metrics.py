"""Metrics of scores and labels in memory, each as its definition says.

`ensue.evaluation.ranking.stream` finds the same for any number of rows; tests hold the two equal.
A metric that has no meaning for the rows at hand (AUC without negatives) is None, never a stand-in.
Rows count with their weight, which is above 0. Everything is computed in float64.

Sources: AUC as a count of pairs, Hanley and McNeil, Radiology 1982; its variance, DeLong et al.,
Biometrics 1988, by midranks as Sun and Xu, IEEE Signal Processing Letters 2014; the step form of
the area under the precision-recall curve, and why not the trapezoid, Davis and Goadrich, ICML
2006; GAUC as used by Zhou et al. (DIN), KDD 2018, arXiv:1706.06978; normalized entropy, He et al.,
ADKDD 2014.

Shapes: n rows, G groups, D distinct scores.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FORMULAS = {
    "auc": "share of the pairs of a positive and a negative row, weighted by the product of their "
    "weights, in which the positive scores higher; equal scores count half",
    "gauc": "mean of the auc within each group, weighted by the weight of the group's rows; groups "
    "without positives or without negatives are left out",
    "pr_auc": "average precision: sum over distinct scores, descending, of the step in recall "
    "times the precision there; rows of equal score come in together; no interpolation",
    "log_loss": "mean of log(1 + exp(-z)) over positives and log(1 + exp(z)) over negatives, z the "
    "logit; nothing is clipped; in nats",
    "normalized_entropy": "log_loss / entropy of the share of positives; below 1 is better than "
    "predicting that share",
    "brier": "mean of (p - y)^2, p the predicted probability",
    "rmse": "root of the mean of (p - y)^2",
    "mae": "mean of |p - y|",
    "r2": "1 - sum of (p - y)^2 / sum of (y - mean of y)^2",
    "calibration": "mean prediction / mean label; 1 is right on average, above 1 is too high",
    "calibration_error": "mean over bins of equal weight, cut in the order of predictions and "
    "never between equal ones, of |mean prediction - mean label|, weighted by the bins",
}


class Gauc(NamedTuple):
    """value is None where no group has both classes; weight: of the rows in groups that count."""

    value: float | None
    groups: int
    groups_left_out: int
    weight: float


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Return the area under the ROC curve; None unless there are positives and negatives.

    >>> auc([1, 0, 1, 0], [3.0, 1.0, 2.0, 2.0])
    0.875
    """
    positive, negative = _class_weights(labels, scores, weights)
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def average_precision(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Return the area under the precision-recall curve; None unless there are both classes.

    >>> average_precision([1, 0, 1], [3.0, 2.0, 1.0])
    0.8333333333333333
    """
    positive, negative = (values[::-1] for values in _class_weights(labels, scores, weights))
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    precision = np.cumsum(positive) / np.cumsum(positive + negative)
    return float((positive * precision).sum() / positive.sum())


def gauc(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> Gauc:
    """Return the mean AUC within groups [n].

    >>> gauc([1, 0, 0, 1, 1], [2.0, 1.0, 1.0, 2.0, 0.0], groups=[7, 7, 8, 8, 9])
    Gauc(value=1.0, groups=2, groups_left_out=1, weight=4.0)
    """
    y, z, w = _rows(labels, scores, weights)
    found = np.asarray(groups)
    order = np.argsort(found, kind="stable")
    bounds = np.flatnonzero(np.diff(found[order])) + 1
    values, sizes = [], []
    parts = [part for part in np.split(order, bounds) if len(part)]
    for rows in parts:
        value = auc(y[rows], z[rows], w[rows])
        if value is not None:
            values.append(value)
            sizes.append(float(w[rows].sum()))
    mean = float(np.average(values, weights=sizes)) if values else None
    return Gauc(mean, len(values), len(parts) - len(values), math.fsum(sizes))


def delong_variance(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Return the variance of the AUC; None unless there are two rows of each class.

    With V_i the share of the other class that row i is on the right side of: the sum over both
    classes of m / (m - 1) sum w_i^2 (V_i - AUC)^2 / (sum w_i)^2, m its rows. Weights of 1 give the
    formula of DeLong et al.; the weighted form takes the weights as given, not as counts of rows.

    >>> delong_variance([1, 1, 0, 0], [3.0, 1.0, 2.0, 0.0])
    0.125
    """
    y, z, w = _rows(labels, scores, weights)
    variance = 0.0
    for own, other in ((y == 1, y == 0), (y == 0, y == 1)):
        if own.sum() < 2 or not other.any():
            return None
        share = _share_below(z[own], z[other], w[other])
        deviation = w[own] * (share - np.average(share, weights=w[own]))
        m = int(own.sum())
        variance += float(m / (m - 1) * (deviation**2).sum() / w[own].sum() ** 2)
    return variance


def log_losses(labels: ArrayLike, logits: ArrayLike) -> Floats:
    """Return the log loss [n] of each row, in nats; linear in a logit of any size.

    >>> log_losses([1, 0], [-1000.0, -1000.0]).tolist()
    [1000.0, 0.0]
    """
    y, z, _ = _rows(labels, logits, None)
    margin = np.where(y == 1, -z, z)
    return np.asarray(np.maximum(margin, 0) + np.log1p(np.exp(-np.abs(margin))))


def log_loss(labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean log loss."""
    w = _rows(labels, logits, weights)[2]
    return float(np.average(log_losses(labels, logits), weights=w))


def entropy(share: float) -> float:
    """Return the entropy of a share of positives, in nats.

    >>> round(entropy(0.5), 6)
    0.693147
    """
    rest = 1 - share
    return -sum(p * math.log(p) for p in (share, rest) if p > 0)


def normalized_entropy(
    labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Return the log loss over that of the share of positives; None unless there are both classes.

    >>> normalized_entropy([1, 0], [0.0, 0.0])
    1.0
    """
    y, _, w = _rows(labels, logits, weights)
    base = entropy(float(np.average(y, weights=w)))
    return log_loss(labels, logits, weights) / base if base > 0 else None


def sigmoid(logits: ArrayLike) -> Floats:
    """Return 1 / (1 + exp(-z)) [n] without overflow."""
    z = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0, small) / (1 + small))


def mean_squared_error(
    labels: ArrayLike, values: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return the mean of (value - label)^2: the Brier score of probabilities; its root is RMSE."""
    y, p, w = _rows(labels, values, weights)
    return float(np.average((p - y) ** 2, weights=w))


def mean_absolute_error(
    labels: ArrayLike, values: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return the mean of |value - label|."""
    y, p, w = _rows(labels, values, weights)
    return float(np.average(np.abs(p - y), weights=w))


def r2(labels: ArrayLike, values: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Return the share of the labels' variance that is explained; None where they do not vary.

    >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.5
    """
    y, p, w = _rows(labels, values, weights)
    spread = float((w * (y - np.average(y, weights=w)) ** 2).sum())
    return 1 - float((w * (p - y) ** 2).sum()) / spread if spread > 0 else None


def calibration(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Return the mean prediction over the mean label; None where that is 0.

    Args:
        predictions: [n] probabilities, or values.

    >>> calibration([1, 0, 0, 0], [0.5, 0.25, 0.25, 0.5])
    1.5
    """
    y, p, w = _rows(labels, predictions, weights)
    total = float((w * y).sum())
    return float((w * p).sum()) / total if total != 0 else None


class Reliability(NamedTuple):
    """Bins in the order of predictions: arrays [bins], without the bins that no row fell into."""

    rows: NDArray[np.int64]
    weight: Floats
    mean_prediction: Floats
    mean_label: Floats

    @property
    def error(self) -> float:
        """The expected calibration error."""
        gaps = np.abs(self.mean_prediction - self.mean_label)
        return float(np.average(gaps, weights=self.weight))


def reliability(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    num_bins: int = 20,
) -> Reliability:
    """Return the mean prediction and label in bins of equal weight.

    The rows of one prediction stay together, in the bin that holds the middle of their weight, so
    a prediction that all rows share makes one bin and the order of rows does not matter.

    >>> table = reliability([0, 0, 1, 1], [0.1, 0.3, 0.6, 0.8], num_bins=2)
    >>> table.mean_label.tolist(), round(table.error, 6)
    ([0.0, 1.0], 0.25)
    """
    y, p, w = _rows(labels, predictions, weights)
    distinct, places, rows = np.unique(p, return_inverse=True, return_counts=True)
    mass = np.bincount(places, weights=w)
    middle = np.cumsum(mass) - mass / 2
    bins = np.minimum((middle / w.sum() * num_bins).astype(np.int64), num_bins - 1)
    weight = np.asarray(np.bincount(bins, weights=mass), dtype=np.float64)
    is_used = weight > 0
    predicted = np.bincount(bins, weights=mass * distinct)
    labelled = np.bincount(bins, weights=np.bincount(places, weights=w * y))
    return Reliability(
        np.bincount(bins, weights=rows)[is_used].astype(np.int64),
        weight[is_used],
        (predicted[is_used] / weight[is_used]),
        (labelled[is_used] / weight[is_used]),
    )


def _rows(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    """Return labels, scores and weights [n] in float64."""
    y, z = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    return y, z, w


def _class_weights(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats]:
    """Return the weight [D] of positives and of negatives at each distinct score, ascending."""
    y, z, w = _rows(labels, scores, weights)
    places = np.unique(z, return_inverse=True)[1]
    positive, negative = (np.bincount(places, weights=w * own) for own in (y, 1 - y))
    return positive.astype(np.float64), negative.astype(np.float64)


def _share_below(scores: Floats, others: Floats, weights: Floats) -> Floats:
    """Return for each score the share of the others, by weight, that is below it; equal: half."""
    order = np.argsort(others)
    total = np.concatenate([[0.0], np.cumsum(weights[order])])
    below = total[np.searchsorted(others[order], scores, "left")]
    up_to = total[np.searchsorted(others[order], scores, "right")]
    return np.asarray((below + up_to) / (2 * total[-1]))
