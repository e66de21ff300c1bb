"""Intervals: their standard errors against definitions, jackknives and simulations."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from ensue.evaluation.ranking import metrics
from tests.evaluation.ranking.rows import components_variance, stream

Z = NormalDist().inv_cdf(0.975)


def error(figures: dict, name: str) -> float:
    """The standard error behind an interval that was not cut."""
    low, high = figures["intervals"][name]
    assert figures["metrics"][name] == pytest.approx((low + high) / 2)
    return (high - low) / (2 * Z)


def random_rows(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(num_rows) < 0.3).astype(np.float32)
    z = (rng.normal(size=num_rows) + y - 0.7).round(1).astype(np.float32)
    return y, z, (rng.random(num_rows) + 0.5).astype(np.float32)


def by_moving_weights(metric: Callable[[np.ndarray], float | None], w: np.ndarray) -> float:
    """The standard error from the derivative of a metric by the weight of each row."""
    total = 0.0
    for n in range(len(w)):
        step = np.zeros(len(w))
        step[n] = 1e-5
        up, down = metric(w + step), metric(w - step)
        assert up is not None
        assert down is not None
        total += (w[n] * (up - down) / 2e-5) ** 2
    return math.sqrt(total * len(w) / (len(w) - 1))


def test_errors_are_those_of_the_delta_method():
    y, z, w = random_rows(120)
    p = metrics.sigmoid(z)
    found = stream("binary", y, z, w)
    for name, metric in {
        "log_loss": lambda v: metrics.log_loss(y, z, v),
        "normalized_entropy": lambda v: metrics.normalized_entropy(y, z, v),
        "brier": lambda v: metrics.mean_squared_error(y, p, v),
        "calibration": lambda v: metrics.calibration(y, p, v),
    }.items():
        expected = by_moving_weights(metric, w.astype(np.float64))
        assert error(found, name) == pytest.approx(expected, rel=1e-6), name


def test_errors_of_a_regression_are_those_of_the_delta_method():
    _, y, w = random_rows(80)
    z = y * np.float32(0.5) + random_rows(80, seed=1)[1] + np.float32(2)
    y = y + np.float32(3)
    found = stream("regression", y, z, w)
    for name, metric in {
        "rmse": lambda v: math.sqrt(metrics.mean_squared_error(y, z, v)),
        "mae": lambda v: metrics.mean_absolute_error(y, z, v),
        "calibration": lambda v: metrics.calibration(y, z, v),
    }.items():
        expected = by_moving_weights(metric, w.astype(np.float64))
        assert error(found, name) == pytest.approx(expected, rel=1e-6), name


def test_the_error_of_a_mean_is_the_usual_one():
    y, z, _ = random_rows(50)
    losses = metrics.log_losses(y, z)
    expected = losses.std(ddof=1) / math.sqrt(50)
    assert error(stream("binary", y, z), "log_loss") == pytest.approx(expected, rel=1e-9)


def test_the_error_of_auc_is_delongs():
    for seed in range(5):
        y, z, w = random_rows(60, seed)
        for weights in (None, w):
            expected = components_variance(y, z, np.ones(60) if weights is None else w)
            found = error(stream("binary", y, z, weights), "auc")
            assert found == pytest.approx(math.sqrt(expected or 0.0), rel=1e-9)


def test_a_near_perfect_auc_has_an_exact_error():
    """One pair of a million is wrong: nothing is lost to cancellation."""
    z = np.arange(2000, dtype=np.float32)
    y = (z >= 1000).astype(np.float32)
    y[[999, 1000]] = y[[1000, 999]]
    low = stream("binary", y, z)["intervals"]["auc"][0]
    variance = components_variance(y, z, np.ones(2000)) or 0.0
    assert (1 - 1e-6 - low) / Z == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_groups_of_one_row_are_as_rows():
    """Clusters estimate the same errors, give or take the 4.4% of a variance with 255 parts."""
    y, z, _ = random_rows(4000)
    rows, groups = stream("binary", y, z), stream("binary", y, z, None, np.arange(1, 4001))
    assert groups["intervals"].keys() == rows["intervals"].keys()
    for name in rows["intervals"]:
        assert error(groups, name) == pytest.approx(error(rows, name), rel=4 * 0.044), name


def test_rows_that_repeat_within_a_group_tell_nothing_new():
    """Every row four times: the errors of clusters stay, those of rows are half of that."""
    y, z, _ = random_rows(1000)
    g = np.arange(1, 1001)
    once = stream("binary", y, z, None, g)
    often = stream("binary", *(np.repeat(a, 4) for a in (y, z)), None, np.repeat(g, 4))
    as_rows = stream("binary", *(np.repeat(a, 4) for a in (y, z)))
    for name in once["intervals"]:
        assert error(often, name) == pytest.approx(error(once, name), rel=1e-9), name
        ratio = error(often, name) / error(as_rows, name)
        assert ratio == pytest.approx(2.0, rel=4 * 0.044), name


def test_the_error_of_gauc_is_that_of_a_bootstrap_over_groups():
    rng = np.random.default_rng(1)
    g = rng.integers(1, 301, 3000)
    y, z, _ = random_rows(3000)
    found = stream("binary", y, z, None, g)
    values, sizes = [], []
    for group in np.unique(g):
        own = g == group
        value = metrics.auc(y[own], z[own])
        if value is not None:
            values.append(value)
            sizes.append(own.sum())
    drawn = rng.integers(0, len(values), (3000, len(values)))
    weight = np.array(sizes)[drawn]
    means = (np.array(values)[drawn] * weight).sum(axis=1) / weight.sum(axis=1)
    assert error(found, "gauc") == pytest.approx(means.std(), rel=0.08)


def test_intervals_of_groups_cover_the_truth_where_those_of_rows_do_not():
    """Scores share a value within a group of 10, labels do too: rows are far from independent."""
    rng, num_samples = np.random.default_rng(2), 120
    true = NormalDist().cdf(1 / math.sqrt(2))
    covered = {True: 0, False: 0}
    for _ in range(num_samples):
        y = np.repeat(rng.integers(0, 2, 100), 10).astype(np.float32)
        z = (np.repeat(rng.normal(size=100), 10) + y).astype(np.float32)
        g = np.repeat(np.arange(1, 101), 10)
        for is_grouped in covered:
            low, high = stream("binary", y, z, None, g if is_grouped else None)["intervals"]["auc"]
            covered[is_grouped] += low < true < high
    assert covered[True] / num_samples > 0.95 - 4 * math.sqrt(0.95 * 0.05 / num_samples)
    assert covered[False] / num_samples < 0.6


def test_intervals_widen_with_confidence_and_end_where_the_metric_does():
    y, z, _ = random_rows(40)
    wide = stream("binary", y, z, confidence=0.999)["intervals"]
    narrow = stream("binary", y, z, confidence=0.5)["intervals"]
    for name in wide:
        assert wide[name][0] <= narrow[name][0] < narrow[name][1] <= wide[name][1]
    few = stream("binary", y[:8], z[:8] + 3 * y[:8], confidence=0.9999)["intervals"]
    assert few["auc"][1] == 1.0
    assert few["log_loss"][0] >= 0.0


def test_one_row_has_no_interval():
    found = stream("binary", np.ones(1, np.float32), np.zeros(1, np.float32))
    assert found["intervals"] == {}
    two = stream("binary", np.array([0, 1], np.float32), np.array([0, 1], np.float32))
    assert "auc" not in two["intervals"]
