from __future__ import annotations

import math

import numpy as np
import pytest

from ensue.evaluation import intervals
from ensue.evaluation.intervals import Bootstrap, resampled_means


def test_nominal_coverage_of_the_true_mean() -> None:
    """About 90% of the 90% intervals hold the mean of the distribution the users come from."""
    rng = np.random.default_rng(1)
    samples = rng.exponential(size=(150, 400))  # 400 draws from a skewed distribution with mean 1
    columns = {str(n): values for n, values in enumerate(samples)}
    found = Bootstrap(400, 0.9, rng).intervals(columns).values()
    share = np.mean([low <= 1.0 <= high for low, high in found])
    assert abs(share - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 150)


def test_resampled_means_have_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(500, 1))
    means = resampled_means(values, 4000, np.random.default_rng(1))
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / math.sqrt(500), rel=0.06)


def test_all_metrics_share_the_draws() -> None:
    values = np.random.default_rng(0).normal(size=(30, 1))
    means = resampled_means(np.column_stack([values, 2 * values]), 50, np.random.default_rng(1))
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0])


def test_working_in_pieces_draws_the_same_number_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "DRAWS_AT_ONCE", 7)
    ones = np.ones((5, 1))
    assert resampled_means(ones, 11, np.random.default_rng(0)).tolist() == [[1.0]] * 11


def test_one_resample_of_two_users_by_hand() -> None:
    """The mean of two draws out of {0, 1} is 0, 1/2 or 1 with probability 1/4, 1/2 and 1/4."""
    means = resampled_means(np.array([[0.0], [1.0]]), 8000, np.random.default_rng(0))
    shares = [np.mean(means == value) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.025)


def test_no_resamples_and_no_metrics_give_no_intervals() -> None:
    rng = np.random.default_rng(0)
    assert Bootstrap(0, 0.95, rng).intervals({"map": np.ones(3)}) == {}
    assert Bootstrap(10, 0.95, rng).intervals({}) == {}
    assert Bootstrap(0, 0.95, rng).describe() == "none"
    assert Bootstrap(10, 0.95, rng).describe() == (
        "95% percentile bootstrap over users, 10 resamples"
    )
