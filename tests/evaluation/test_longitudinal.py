from __future__ import annotations

import numpy as np
import pytest

from ensue.evaluation.longitudinal import (
    explained_by_groups,
    measure_order,
    r_squared,
    ridge,
    spearman,
    spearman_interval,
)
from ensue.evaluation.probes import class_metrics, logistic, number_metrics


def test_order_by_hand() -> None:
    codes = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, -2.0], [0.0, -2.0]])
    pairs = np.array([[0, 1], [0, 2], [2, 3]])
    order = measure_order(codes, np.array([0.0, 1.0]), pairs)
    assert order.cosine == pytest.approx((0.8 - 1.0 + 0.0) / 3)
    assert order.ordered == pytest.approx(1 / 3)
    assert order.length == pytest.approx((1.0, 2.0, 3.5))


def test_spearman_with_ties_by_hand() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 4, 3, around 2.5: 0.75 + 0 + 0 + 0.75 over root(4.5 * 5).
    found = spearman(np.array([1.0, 5.0, 5.0, 9.0]), np.array([2.0, 1.0, 8.0, 3.0]))
    assert found == pytest.approx(1.5 / np.sqrt(4.5 * 5))
    assert spearman(np.ones(4), np.arange(4.0)) == 0


def test_visits_of_few_entities_say_less_than_they_seem_to() -> None:
    rng = np.random.default_rng(0)
    own = rng.standard_normal((20, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    x, y = np.repeat(own, 30, axis=0).T + 0.05 * rng.standard_normal((2, 600))
    together = np.repeat(np.arange(20), 30)
    widths = []
    for entities in (together, np.arange(600)):
        low, high = spearman_interval(x, y, entities, num_resamples=400, rng=rng)
        assert low < spearman(x, y) < high
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


def test_what_groups_explain_by_hand() -> None:
    values, groups = np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 1])
    assert explained_by_groups(values, groups) == pytest.approx(16 / 20)
    assert explained_by_groups(np.ones(4), groups) == 0


def test_a_ridge_solves_its_equations() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((30, 3)) * [1, 5, 0.1] + 2, rng.standard_normal((4, 3))
    y = x @ [1.0, -0.5, 3.0] + 0.1 * rng.standard_normal(30)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    augmented = np.vstack([scaled, np.eye(3)])
    weights = np.linalg.lstsq(augmented, np.append(y - y.mean(), np.zeros(3)), rcond=None)[0]
    expected = y.mean() + (new - x.mean(axis=0)) / x.std(axis=0) @ weights
    np.testing.assert_allclose(ridge(x, y, new), expected)
    assert r_squared(y, y) == 1
    assert r_squared(y, np.full(30, y.mean())) == pytest.approx(0)


def test_a_logistic_regression_is_at_its_minimum() -> None:
    """Its gradient by hand is 0: weighted errors times inputs, plus the weights themselves."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2))
    labels = (x[:, 0] + rng.standard_normal(60) > 0.8).astype(np.int64)
    found = logistic(x, labels, x, num_classes=2)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    weight = np.where(labels == 1, 60 / (2 * labels.sum()), 60 / (2 * (1 - labels).sum()))
    margin = np.log(found[:, 1] / found[:, 0])
    slopes = np.linalg.lstsq(np.column_stack([scaled, np.ones(60)]), margin, rcond=None)[0]
    errors = weight * (found[:, 1] - labels)
    assert errors.sum() == pytest.approx(0, abs=1e-4)
    # Of two classes, each has half of the margin's weights.
    np.testing.assert_allclose(errors @ scaled + slopes[:2] / 2, 0, atol=1e-4)


def test_metrics_of_classes_and_numbers_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    chances = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]])
    assert class_metrics(labels, chances) == {"balanced_accuracy": pytest.approx(5 / 6), "auc": 1.0}
    assert class_metrics(np.zeros(4, np.int64), chances)["auc"] is None
    found = number_metrics(np.array([1.0, 3.0]), np.array([2.0, 3.0]))
    assert found == {"r2": pytest.approx(0.5), "rmse": pytest.approx(np.sqrt(0.5))}
