"""From sums over the rows of a task to its metrics and their intervals.

Intervals are normal: estimate +- z standard errors, cut where the metric ends. Every metric here is
a smooth function f of the sums T of values over rows, so its variance is g' Q g, g the gradient of
f and Q the sum over independent parts of (their share of T)(their share of T)': the delta method.
The variance of the AUC is that of DeLong et al., Biometrics 1988.

Rows of one group (a user, a request) are not independent. Where groups are known they, not rows,
are the parts, in NUM_CLUSTERS random clusters of groups (the random group method; Wolter,
"Introduction to Variance Estimation", 2007, chapter 2): with 256, the standard error itself is
off by some 4%. For GAUC the parts are the groups themselves.

Shapes: R clusters; X values of a row, see `passes.VALUES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.ranking.schema import TaskKind
from ensue.evaluation.ranking import passes
from ensue.evaluation.ranking.metrics import Floats, entropy
from ensue.evaluation.ranking.records import NUM_CLUSTERS

CURVE_STEPS = 99  # of the weight of either class: at most 2 x 99 points and the two ends

METRICS: dict[TaskKind, tuple[str, ...]] = {
    "binary": (
        "auc",
        "gauc",
        "pr_auc",
        "log_loss",
        "normalized_entropy",
        "brier",
        "calibration",
        "calibration_error",
    ),
    "regression": ("rmse", "mae", "r2", "calibration", "calibration_error"),
}
_CEILINGS = {"auc": 1.0, "gauc": 1.0, "brier": 1.0}


@dataclass
class Sums:
    """What the passes add up for the rows of a task; see `passes` for the fields of each array.

    is_clustered: groups are known, so that clusters of them are the independent parts.
    rows, positives: numbers of rows; weight, positive_weight, negative_weight: exact sums.
    groups: None where groups are not known, or the task is a regression.
    """

    kind: TaskKind
    is_clustered: bool
    rows: int = 0
    positives: int = 0
    rows_without_group: int = 0
    weight: float = 0.0
    positive_weight: float = 0.0
    negative_weight: float = 0.0
    values: Floats = field(default_factory=lambda: np.zeros((passes.NUM_VALUES, 2)))
    products: Floats = field(default_factory=lambda: np.zeros((passes.NUM_PRODUCTS, 2)))
    spread: Floats = field(default_factory=lambda: np.zeros((2, 2)))
    value_clusters: Floats = field(
        default_factory=lambda: np.zeros((NUM_CLUSTERS, passes.NUM_VALUES))
    )
    ranks: Floats = field(default_factory=lambda: np.zeros((passes.RANK_SUMS, 2)))
    rank_clusters: Floats = field(default_factory=lambda: np.zeros((NUM_CLUSTERS, 3)))
    curve: Floats = field(default_factory=lambda: np.zeros((2 * CURVE_STEPS + 2, 2)))
    num_points: int = 0
    bins: Floats = field(default_factory=lambda: np.zeros((0, 6)))
    groups: Floats | None = None
    group_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))

    @property
    def has_both_classes(self) -> bool:
        """Whether rows of both labels are there, so that there are pairs to rank."""
        return self.kind == "binary" and 0 < self.positives < self.rows


def summarize(sums: Sums, confidence: float) -> dict[str, Any]:
    """Return rows, metrics, intervals, and why metrics are undefined, ready for JSON."""
    metrics: dict[str, float | None] = dict.fromkeys(METRICS[sums.kind])
    errors: dict[str, float] = {}
    if sums.rows:
        _add_means(sums, metrics, errors)
        if sums.has_both_classes:
            _add_auc(sums, metrics, errors)
    if sums.groups is None:
        metrics.pop("gauc", None)
    elif sums.group_counts[0]:
        _add_gauc(sums.groups.sum(axis=1), int(sums.group_counts[0]), metrics, errors)
    totals = sums.values.sum(axis=1)
    weight = float(totals[4])
    return {
        "kind": sums.kind,
        "rows": sums.rows,
        "positives": sums.positives if sums.kind == "binary" else None,
        "weight": sums.weight,
        "mean_label": float(totals[3]) / weight if sums.rows else None,
        "mean_prediction": float(totals[2]) / weight if sums.rows else None,
        "metrics": metrics,
        "intervals": _intervals(metrics, errors, confidence),
        "undefined": {
            name: _reason(name, sums) for name, value in metrics.items() if value is None
        },
        "groups": _groups(sums),
        "reliability": _reliability(sums),
        "curve": _curve(sums),
    }


def _add_means(sums: Sums, metrics: dict[str, float | None], errors: dict[str, float]) -> None:
    """Add the metrics that are functions of sums over rows, and their standard errors."""
    first, second, predicted, labelled, weight = sums.values.sum(axis=1).tolist()
    means = {"first": first / weight, "second": second / weight}
    gradients = {
        "first": np.array([1, 0, 0, 0, -means["first"]]) / weight,
        "second": np.array([0, 1, 0, 0, -means["second"]]) / weight,
    }
    if labelled != 0:
        metrics["calibration"] = ratio = predicted / labelled
        gradients["calibration"] = np.array([0, 0, 1, -ratio, 0]) / labelled
    if sums.kind == "binary":
        metrics["log_loss"], metrics["brier"] = means["first"], means["second"]
        gradients["log_loss"], gradients["brier"] = gradients["first"], gradients["second"]
        share = labelled / weight
        if sums.has_both_classes and (base := entropy(share)) > 0:
            metrics["normalized_entropy"] = value = means["first"] / base
            slope = math.log(1 - share) - math.log(share)  # of the entropy
            to_share = np.array([0, 0, 0, 1, -share]) / weight
            gradients["normalized_entropy"] = (gradients["first"] - value * slope * to_share) / base
    else:
        metrics["rmse"], metrics["mae"] = math.sqrt(means["first"]), means["second"]
        gradients["mae"] = gradients["second"]
        if first > 0:
            gradients["rmse"] = gradients["first"] / (2 * math.sqrt(means["first"]))
        shifted, squared = sums.spread.sum(axis=1).tolist()
        variation = squared - shifted * shifted / weight
        if variation > 1e-14 * squared:  # else what is left is rounding: the labels are equal
            metrics["r2"] = 1 - first / variation
    metrics["calibration_error"] = _calibration_error(sums.bins)
    products = _products(sums)
    if products is not None:
        for name in metrics.keys() & gradients.keys():
            g = gradients[name]
            errors[name] = math.sqrt(max(float(g @ products @ g), 0.0))


def _products(sums: Sums) -> Floats | None:
    """Return Q [X, X], of rows or of clusters; None where there are fewer than two."""
    if not sums.is_clustered:
        parts = sums.rows
        products = np.zeros((passes.NUM_VALUES, passes.NUM_VALUES))
        upper = np.triu_indices(passes.NUM_VALUES)
        products[upper] = sums.products.sum(axis=1)
        products = products + np.triu(products, 1).T
    else:
        shares = sums.value_clusters[sums.value_clusters[:, 4] > 0]
        parts = len(shares)
        products = shares.T @ shares
    return products * (parts / (parts - 1)) if parts > 1 else None


def _add_auc(sums: Sums, metrics: dict[str, float | None], errors: dict[str, float]) -> None:
    """Add AUC, its standard error, and average precision."""
    found = sums.ranks.sum(axis=1)
    pairs = sums.positive_weight * sums.negative_weight
    metrics["auc"] = value = float(found[passes.PAIRS]) / pairs
    metrics["pr_auc"] = float(found[passes.PRECISION]) / sums.positive_weight
    miss = 1 - value
    if sums.is_clustered:
        own, positive, negative = sums.rank_clusters.T
        is_used = positive + negative > 0
        expected = miss * (positive / sums.positive_weight + negative / sums.negative_weight)
        variance = float((((own - expected)[is_used]) ** 2).sum())
        parts = int(is_used.sum())
        if parts > 1:
            errors["auc"] = math.sqrt(variance * parts / (parts - 1))
        return
    variance = 0.0
    for first, weight, count in (
        (passes.POS_SQUARE, sums.positive_weight, sums.positives),
        (passes.NEG_SQUARE, sums.negative_weight, sums.rows - sums.positives),
    ):
        if count < 2:
            return
        ones, misses, squares = found[first : first + 3].tolist()
        deviation = squares - 2 * miss * misses + miss * miss * ones
        variance += count / (count - 1) * max(deviation, 0.0) / weight**2
    errors["auc"] = math.sqrt(variance)


def _add_gauc(
    found: Floats, groups: int, metrics: dict[str, float | None], errors: dict[str, float]
) -> None:
    """Add GAUC and its standard error, from the sums [GROUP_SUMS] over groups."""
    weight, value, ones, values, squares = found.tolist()
    metrics["gauc"] = mean = value / weight
    if groups > 1:
        deviation = max(squares - 2 * mean * values + mean * mean * ones, 0.0)
        errors["gauc"] = math.sqrt(groups / (groups - 1) * deviation) / weight


def _intervals(
    metrics: Mapping[str, float | None], errors: Mapping[str, float], confidence: float
) -> dict[str, list[float]]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    intervals = {}
    for name, value in metrics.items():
        if value is not None and name in errors:
            ends = [value - z * errors[name], value + z * errors[name]]
            floor = min(0.0, ends[1]) if name != "calibration" else -math.inf
            intervals[name] = [max(ends[0], floor), min(ends[1], _CEILINGS.get(name, math.inf))]
    return intervals


def _reason(name: str, sums: Sums) -> str:
    """Return why a metric has no value."""
    if sums.rows == 0:
        return "there are no rows with a label"
    if name == "gauc":
        return "no group has rows of both labels"
    if name == "r2":
        return "all labels are equal"
    if name == "calibration":
        return "the mean label is 0"
    return f"all {sums.rows} rows have the label {1 if sums.positives else 0}"


def _groups(sums: Sums) -> dict[str, Any] | None:
    if sums.groups is None:
        return None
    counted, left_out = sums.group_counts.tolist()
    return {
        "counted": counted,
        "left_out": left_out,
        "counted_weight": float(sums.groups[passes.G_WEIGHT].sum()),
        "rows_without_group": sums.rows_without_group,
    }


def _calibration_error(bins: Floats) -> float:
    used = bins[bins[:, 1] > 0]
    return float(np.abs(used[:, 2] - used[:, 3]).sum() / used[:, 1].sum())


def _reliability(sums: Sums) -> list[dict[str, Any]]:
    """Return the bins that hold rows, by ascending prediction."""
    return [
        {
            "rows": int(rows),
            "weight": weight,
            "mean_prediction": predicted / weight,
            "mean_label": labelled / weight,
            "low": low,
            "high": high,
        }
        for rows, weight, predicted, labelled, low, high in sums.bins.tolist()
        if weight > 0
    ]


def _curve(sums: Sums) -> dict[str, list[float]] | None:
    """Return points of the ROC and the precision-recall curve, by falling threshold."""
    if not sums.has_both_classes:
        return None
    tp, fp = sums.curve[: sums.num_points].T
    return {
        "false_positive_rate": [0.0, *(fp / sums.negative_weight).clip(0, 1).tolist()],
        "recall": [0.0, *(tp / sums.positive_weight).clip(0, 1).tolist()],
        "precision": [float(tp[0] / (tp[0] + fp[0])), *(tp / (tp + fp)).tolist()],
    }
