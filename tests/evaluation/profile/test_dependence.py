from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import pytest

from ensue.data.histories import Histories
from ensue.evaluation.profile import dependence
from ensue.evaluation.profile.dependence import Dependence, measure_dependence
from ensue.evaluation.profile.shuffle import shuffle_histories
from tests.contracts.planted import histories_of
from tests.evaluation.profile.logs import Floats, fractional, stationary, vectors_as_items

LISTS = [[1, 2, 3], [4, 1], [5, 5, 2], [3]]
VECTORS = np.vstack([np.zeros(3), np.random.default_rng(0).normal(size=(5, 3))])


def measure(
    histories: Histories, vectors: Floats, *, max_lag: int, seed: int = 0, **options: int
) -> Dependence:
    shuffled = shuffle_histories(histories, np.random.default_rng(seed))
    users = np.flatnonzero(histories.lengths > 0)
    return measure_dependence(histories, shuffled, users, vectors, max_lag=max_lag, **options)


def dep(sequences: Sequence[Floats], lag: int) -> float:
    """Return the trace of the sample cross-covariance, summed dimension by dimension."""
    pairs = [(s[-1], s[-1 - lag]) for s in sequences if len(s) > lag]
    a, b = np.array([p for p, _ in pairs]), np.array([q for _, q in pairs])
    return sum(np.cov(a[:, d], b[:, d], ddof=1)[0, 1] for d in range(a.shape[1]))


def sequences_of(lists: Sequence[Sequence[int]], *, within: bool = False) -> list[Floats]:
    found = [VECTORS[list(history)] for history in lists]
    return [s - s.mean(axis=0) for s in found] if within else found


def test_values_equal_the_definition() -> None:
    found = measure(histories_of(LISTS), VECTORS, max_lag=50)
    assert found.num_users.tolist() == [4, 3, 2]
    for lag in range(3):
        assert found.total.value[lag] == pytest.approx(dep(sequences_of(LISTS), lag))
        expected = dep(sequences_of(LISTS, within=True), lag)
        assert found.within.value[lag] == pytest.approx(expected)


def test_the_floor_is_the_mean_over_all_permutations() -> None:
    found = measure(histories_of(LISTS), VECTORS, max_lag=2)
    every = list(product(*(list(permutations(history)) for history in LISTS)))
    for lag in range(3):
        mean = np.mean([dep(sequences_of(lists), lag) for lists in every])
        assert found.total.floor[lag] == pytest.approx(mean)
        mean = np.mean([dep(sequences_of(lists, within=True), lag) for lists in every])
        assert found.within.floor[lag] == pytest.approx(mean)


def test_parts_of_users_have_the_right_means() -> None:
    found = measure(histories_of(LISTS), VECTORS, max_lag=2)
    np.testing.assert_allclose(np.nanmean(found.products, axis=0), found.total.value)
    expected = found.total.value - found.total.floor
    np.testing.assert_allclose(np.nanmean(found.excess, axis=0), expected)
    assert np.isnan(found.excess).tolist() == np.isnan(found.products).tolist()
    assert np.isnan(found.products)[3].tolist() == [False, True, True]


def test_parts_of_users_are_what_the_users_add() -> None:
    """They agree with the jackknife, so resampled means of them stand for resampled users."""
    rng = np.random.default_rng(0)
    values = stationary(fractional(0.4, 8), num_users=300, dim=4, rng=rng, between=1.0)
    histories, vectors = vectors_as_items(values)
    everyone = np.arange(1, 301)
    found = measure_dependence(histories, histories, everyone, vectors, max_lag=4)
    for row in range(5):
        others = np.delete(everyone, row)
        without = measure_dependence(histories, histories, others, vectors, max_lag=4)
        for parts, whole, rest in (
            (found.products, found.total.value, without.total.value),
            (found.excess, found.total.value - found.total.floor, without.total.value),
        ):
            if parts is found.excess:
                rest = rest - without.total.floor
            added = 300 * whole - 299 * rest
            np.testing.assert_allclose(parts[row], added, atol=0.3)
            assert np.abs(parts[row] - whole).max() > 1.0  # the agreement is not that of means


def test_three_pairs_by_hand() -> None:
    """The means are (1, 1/3) and (1, 1/3); the products (2, 0, 2) less 10/9 of them."""
    lists, vectors = (
        [[1, 2], [3, 4], [2, 5]],
        np.array([[0, 0], [1, 0], [2, 0], [0, 1], [0, 0], [1, 1]], dtype=np.float64),
    )
    found = measure(histories_of(lists), vectors, max_lag=1)
    assert found.total.value[1] == pytest.approx(1 / 3)
    assert np.mean(found.products[:, 1]) * 2 / 3 == pytest.approx(2 / 9)


def test_taste_that_never_changes_is_all_floor() -> None:
    """Half the users always take an item at (1, 0), half one at (-1, 0): Dep_L = 1 for every L."""
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    found = measure(histories_of([[1] * 30] * 20 + [[2] * 30] * 20), vectors, max_lag=25)
    unbiased = 40 / 39
    for values in (found.total.value, found.total.floor, found.shuffled):
        np.testing.assert_allclose(values, np.full(26, unbiased))
    np.testing.assert_allclose(found.total.percentiles, np.ones((2, 26)))
    np.testing.assert_allclose(found.within.value, np.zeros(26), atol=1e-12)
    np.testing.assert_allclose(found.excess, np.zeros((40, 26)), atol=1e-12)


def test_percentiles_are_those_of_the_centered_products() -> None:
    values = stationary([1.0, 0.3], num_users=50, dim=2, rng=np.random.default_rng(0))
    found = measure(*vectors_as_items(values), max_lag=1)
    a, b = values[:, 1], values[:, 0]
    products = ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).sum(axis=1)
    np.testing.assert_allclose(found.total.percentiles[:, 1], np.percentile(products, [5, 95]))


def standard_errors(found: Dependence) -> Floats:
    return np.nanstd(found.products, axis=0) / np.sqrt(found.num_users)


def test_an_autoregressive_process_falls_as_a_power_of_its_coefficient() -> None:
    rng = np.random.default_rng(0)
    values = stationary(0.8 ** np.arange(30), num_users=4000, dim=8, rng=rng)
    found = measure(*vectors_as_items(values), max_lag=20)
    expected = 8 * 0.8 ** np.arange(21)
    assert np.all(np.abs(found.total.value - expected) < 4 * standard_errors(found))


def test_permuted_histories_are_flat_where_the_histories_are_not() -> None:
    rng = np.random.default_rng(1)
    values = stationary(fractional(0.4, 30), num_users=2000, dim=8, rng=rng, between=0.5)
    histories, vectors = vectors_as_items(values)
    found = measure(histories, vectors, max_lag=25)
    errors = standard_errors(found)[1:]
    np.testing.assert_allclose(found.total.floor[1:], found.total.floor[1])
    assert np.all(np.abs(found.shuffled - found.total.floor)[1:] < 4 * errors)
    assert found.total.value[1] - found.total.floor[1] > 20 * errors[0]
    # lasting taste (0.5 a dimension) and the mean covariance of the pairs of 30 items
    pairs = [(30 - k) * k**-0.4 for k in range(1, 30)]
    expected = 8 * (0.5 + sum(pairs) * 2 / (30 * 29))
    assert found.total.floor[1] == pytest.approx(expected, rel=0.05)


def test_within_users_lasting_taste_is_gone() -> None:
    rng = np.random.default_rng(1)
    white = [1.0] + [0.0] * 19
    values = stationary(white, num_users=3000, dim=8, rng=rng, between=2.0)
    found = measure(*vectors_as_items(values), max_lag=15)
    assert np.all(found.total.value > 8 * 1.5)
    # two of 20 deviations from a mean have the covariance -1/20 each dimension
    errors = standard_errors(found)[1:]
    np.testing.assert_allclose(found.within.floor[1:], -8 / 20, rtol=0.03)
    assert np.all(np.abs(found.within.value + 8 / 20)[1:] < 4 * errors)


def test_some_of_the_users_alone() -> None:
    histories = histories_of(LISTS)
    shuffled = shuffle_histories(histories, np.random.default_rng(0))
    found = measure_dependence(histories, shuffled, np.array([1, 3]), VECTORS, max_lag=2)
    assert found.num_users.tolist() == [2, 2, 2]
    assert found.total.value[1] == pytest.approx(dep(sequences_of([LISTS[0], LISTS[2]]), 1))


def test_a_single_long_history_has_no_covariance() -> None:
    found = measure(histories_of([[1, 2, 3], [4, 1]]), VECTORS, max_lag=9)
    assert found.num_users.tolist() == [2, 2, 1]
    for values in (found.total.value, found.total.floor, found.within.value, found.shuffled):
        assert np.isnan(values).tolist() == [False, False, True]


def test_working_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = measure(histories_of(LISTS), VECTORS, max_lag=2)
    monkeypatch.setattr(dependence, "ROWS_AT_ONCE", 2)
    found = measure(histories_of(LISTS), VECTORS, max_lag=2)
    np.testing.assert_allclose(found.total.floor, expected.total.floor)
    np.testing.assert_allclose(found.within.value, expected.within.value)
