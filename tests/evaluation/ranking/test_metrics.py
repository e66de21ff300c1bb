from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.evaluation.ranking import metrics
from tests.evaluation.ranking.rows import (
    columns,
    components_variance,
    many_rows,
    pairs_auc,
    steps_average_precision,
)

quick = settings(max_examples=50, deadline=None)


def close(found: float | None, expected: float | None) -> None:
    assert (found is None) == (expected is None)
    assert found is None or found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@quick
@given(many_rows)
def test_ranks_equal_their_definition(rows):
    y, z, w, _ = columns(rows)
    close(metrics.auc(y, z, w), pairs_auc(y, z, w))
    close(metrics.average_precision(y, z, w), steps_average_precision(y, z, w))
    close(metrics.delong_variance(y, z, w), components_variance(y, z, w))


@quick
@given(many_rows)
def test_auc_depends_on_the_order_alone(rows):
    y, z, w, _ = columns(rows)
    close(metrics.auc(y, np.exp(z) + 5, w), metrics.auc(y, z, w))
    close(metrics.average_precision(y, np.exp(z) + 5, w), metrics.average_precision(y, z, w))


@quick
@given(many_rows)
def test_turning_scores_or_labels_around_gives_the_rest_to_one(rows):
    y, z, w, _ = columns(rows)
    found = metrics.auc(y, z, w)
    rest = None if found is None else 1 - found
    close(metrics.auc(y, -z, w), rest)
    close(metrics.auc(1 - y, z, w), rest)
    close(metrics.delong_variance(1 - y, -z, w), metrics.delong_variance(y, z, w))


@quick
@given(many_rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, random):
    y, z, w, g = columns(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    close(metrics.auc(y[order], z[order], w[order]), metrics.auc(y, z, w))
    close(
        metrics.average_precision(y[order], z[order], w[order]), metrics.average_precision(y, z, w)
    )
    close(
        metrics.gauc(y[order], z[order], g[order], w[order]).value, metrics.gauc(y, z, g, w).value
    )
    one, other = metrics.reliability(y, z, w), metrics.reliability(y[order], z[order], w[order])
    close(one.error, other.error)


@quick
@given(many_rows, st.integers(2, 3))
def test_a_weight_is_as_so_many_rows(rows, times):
    y, z, _, g = columns(rows)
    w = np.where(np.arange(len(y)) % 2, float(times), 1.0)
    often = np.repeat(np.arange(len(y)), w.astype(int))
    for name in ("auc", "average_precision", "log_loss", "normalized_entropy", "calibration", "r2"):
        metric = getattr(metrics, name)
        close(metric(y, z, w), metric(y[often], z[often]))
    close(metrics.gauc(y, z, g, w).value, metrics.gauc(y[often], z[often], g[often]).value)


def test_one_class_alone_has_no_rank_metrics():
    for y in ([1, 1], [0, 0]):
        assert metrics.auc(y, [1.0, 2.0]) is None
        assert metrics.average_precision(y, [1.0, 2.0]) is None
        assert metrics.normalized_entropy(y, [1.0, 2.0]) is None
        assert metrics.delong_variance(y, [1.0, 2.0]) is None
    assert metrics.calibration([0, 0], [0.5, 0.5]) is None
    assert metrics.r2([2.0, 2.0], [1.0, 2.0]) is None
    assert metrics.gauc([1, 1, 0], [1.0, 2.0, 3.0], [1, 1, 2]) == (None, 0, 2, 0.0)


def test_equal_scores_have_half_the_pairs_and_the_share_of_positives():
    y = [1, 0, 0, 0]
    assert metrics.auc(y, [2.0] * 4) == 0.5
    assert metrics.average_precision(y, [2.0] * 4) == 0.25


def test_gauc_by_hand():
    """Groups of 3 rows with AUC 1/2 and of 2 rows with AUC 1; one of 4 rows has no negative."""
    y = [1, 0, 0, 1, 0, 1, 1, 1, 1]
    z = [2.0, 3.0, 1.0, 0.5, 0.0, 1.0, 2.0, 3.0, 4.0]
    found = metrics.gauc(y, z, [1, 1, 1, 2, 2, 3, 3, 3, 3])
    assert found == (pytest.approx((3 * 0.5 + 2 * 1.0) / 5), 2, 1, 5.0)


def test_average_precision_by_hand():
    """Hits at places 1, 3 and 6: (1/1 + 2/3 + 3/6) / 3."""
    y = [1, 0, 1, 0, 0, 1]
    assert metrics.average_precision(y, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == pytest.approx(13 / 18)


def test_log_loss_by_hand():
    y, p = np.array([1, 0, 1]), np.array([0.8, 0.4, 0.3])
    expected = -(math.log(0.8) + math.log(0.6) + math.log(0.3)) / 3
    assert metrics.log_loss(y, np.log(p / (1 - p))) == pytest.approx(expected, rel=1e-12)
    base = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    found = metrics.normalized_entropy(y, np.log(p / (1 - p)))
    assert found == pytest.approx(expected / base, rel=1e-12)


def test_extreme_logits_are_not_clipped():
    assert metrics.log_losses([1, 0, 1, 0], [1000.0, 1000.0, -1000.0, -1000.0]).tolist() == [
        0.0, 1000.0, 1000.0, 0.0
    ]  # fmt: skip
    assert metrics.log_losses([1], [40.0])[0] == pytest.approx(math.exp(-40.0), rel=1e-12)
    assert metrics.sigmoid([-1000.0, 0.0, 1000.0]).tolist() == [0.0, 0.5, 1.0]


def test_predicting_the_share_of_positives_has_a_normalized_entropy_of_one():
    y = np.array([1, 0, 0, 0, 1])
    assert metrics.normalized_entropy(y, np.full(5, math.log(0.4 / 0.6))) == pytest.approx(1.0)


def test_regression_by_hand():
    y, p, w = [1.0, 3.0], [2.0, 1.0], [1.0, 3.0]
    assert metrics.mean_squared_error(y, p, w) == pytest.approx((1 + 3 * 4) / 4)
    assert metrics.mean_absolute_error(y, p, w) == pytest.approx((1 + 3 * 2) / 4)
    assert metrics.r2(y, p, w) == pytest.approx(1 - 13 / (1 * 1.5**2 + 3 * 0.5**2))
    assert metrics.calibration(y, p, w) == pytest.approx((2 + 3 * 1) / (1 + 3 * 3))


def test_bins_have_equal_weight_and_keep_equal_predictions_together():
    p = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    y = [0, 0, 0, 1, 0, 1, 1, 1]
    table = metrics.reliability(y, p, num_bins=4)
    assert table.rows.tolist() == [2, 2, 2, 2]
    assert table.mean_label.tolist() == [0, 0.5, 0.5, 1]
    assert table.error == pytest.approx((0.15 + 0.15 + 0.05 + 0.25) / 4)
    tied = metrics.reliability(y, [0.5] * 8, num_bins=4)
    assert (tied.rows.tolist(), tied.error) == ([8], 0.0)
    # Of weights 4, 1, 1, 2 the middles are 2, 4.5, 5.5 and 7: the first two halves of 8.
    heavy = metrics.reliability([1, 0, 0, 1], [0.1, 0.2, 0.3, 0.4], [4, 1, 1, 2], num_bins=2)
    assert heavy.weight.tolist() == [4, 4]


@quick
@given(many_rows)
def test_bins_hold_every_row_once(rows):
    y, z, w = (column.astype(np.float64) for column in columns(rows)[:3])
    table = metrics.reliability(y, z, w, num_bins=5)
    assert table.rows.sum() == len(y)
    assert (table.weight * table.mean_label).sum() == pytest.approx((w * y).sum())
    assert (table.weight * table.mean_prediction).sum() == pytest.approx((w * z).sum(), abs=1e-9)
    assert (np.diff(table.mean_prediction) > 0).all()


def test_intervals_by_delong_cover_the_true_auc():
    """Of two normal distributions, one apart: AUC = Phi(1 / sqrt(2))."""
    rng = np.random.default_rng(0)
    true, num_samples, covered = NormalDist().cdf(1 / math.sqrt(2)), 400, 0
    for _ in range(num_samples):
        y = np.arange(160) % 3 == 0
        z = rng.normal(size=160) + y
        error = math.sqrt(metrics.delong_variance(y, z) or 0.0)
        covered += abs((metrics.auc(y, z) or 0.0) - true) < 1.96 * error
    assert abs(covered / num_samples - 0.95) < 4 * math.sqrt(0.95 * 0.05 / num_samples)
