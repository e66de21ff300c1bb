from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.evaluation.profile.decay import Decay, fit_decay, mean_pair_shape
from ensue.evaluation.profile.dependence import measure_dependence
from ensue.evaluation.profile.shuffle import shuffle_histories
from tests.contracts.planted import histories_of
from tests.evaluation.profile.logs import Floats, fractional, stationary, vectors_as_items

pytestmark = pytest.mark.slow


def decay_of(
    values: Floats, *, max_lag: int = 50, seed: int = 0, is_permuted: bool = False
) -> Decay:
    """Return the decay of vectors [n, T, D]; of the same in a random order, if asked for."""
    rng = np.random.default_rng(seed)
    histories, vectors = vectors_as_items(values)
    shuffled = shuffle_histories(histories, rng)
    if is_permuted:
        histories, shuffled = shuffled, shuffle_histories(histories, rng)
    users = np.arange(1, len(values) + 1)
    found = measure_dependence(histories, shuffled, users, vectors, max_lag=max_lag)
    return fit_decay(found, num_resamples=200, rng=rng)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=8), st.data())
def test_mean_over_pairs_equals_the_definition(lengths: list[int], data: st.DataObject) -> None:
    lag = data.draw(st.integers(1, max(lengths) - 1))
    shape = np.random.default_rng(len(lengths)).random(max(lengths) - 1)
    means = [
        np.mean([shape[abs(i - j) - 1] for i in range(m) for j in range(m) if i != j])
        for m in lengths
        if m > lag
    ]
    found = mean_pair_shape(shape, np.array(lengths), np.array([lag]))
    assert found == pytest.approx([np.mean(means)])


@pytest.fixture(scope="module")
def long_memory() -> Decay:
    rng = np.random.default_rng(0)
    return decay_of(stationary(fractional(0.4, 60), num_users=4000, dim=32, rng=rng))


@pytest.mark.slow
def test_slope_of_a_fractional_process(long_memory: Decay) -> None:
    assert long_memory.slope is not None
    value, (low, high) = long_memory.slope
    assert value == pytest.approx(-0.4, abs=0.05)
    assert low < value < high
    assert high - low < 0.05


def test_exponent_above_the_floor_of_a_fractional_process(long_memory: Decay) -> None:
    """The floor of 60 items is higher than the dependence at 50 lags, and holds memory itself."""
    assert long_memory.power is not None
    assert long_memory.power.parameter == pytest.approx(0.4, abs=0.05)
    low, high = long_memory.power.interval
    assert low <= 0.4 <= high
    assert long_memory.power.height == pytest.approx(32, rel=0.1)
    assert long_memory.power.explained > 0.99
    assert long_memory.preferred == "power"


@pytest.mark.slow
def test_lasting_taste_flattens_the_slope_but_not_the_exponent() -> None:
    rng = np.random.default_rng(1)
    values = stationary(fractional(0.4, 60), num_users=4000, dim=32, rng=rng, between=1.0)
    found = decay_of(values)
    assert found.slope is not None
    assert -0.2 < found.slope[0] < 0
    assert found.power is not None
    assert found.power.parameter == pytest.approx(0.4, abs=0.05)
    assert found.preferred == "power"


@pytest.mark.slow
def test_histories_of_different_lengths() -> None:
    """The correction follows each history's own length."""
    rng = np.random.default_rng(2)
    values = stationary(fractional(0.7, 60), num_users=4000, dim=32, rng=rng, between=0.5)
    whole, vectors = vectors_as_items(values)
    starts = whole.starts + np.append(0, rng.integers(0, 45, size=4000))
    histories = type(whole)(whole.items, starts, whole.ends)
    shuffled = shuffle_histories(histories, rng)
    found = measure_dependence(histories, shuffled, np.arange(1, 4001), vectors, max_lag=50)
    assert found.num_users[50] < 1000
    decay = fit_decay(found, num_resamples=200, rng=rng)
    assert decay.power is not None
    assert decay.power.parameter == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("between", [0.0, 0.5])
def test_an_autoregressive_process_is_exponential(between: float) -> None:
    rng = np.random.default_rng(0)
    values = stationary(0.8 ** np.arange(60), num_users=3000, dim=16, rng=rng, between=between)
    found = decay_of(values)
    assert found.preferred == "exponential"
    assert found.exponential is not None
    assert found.exponential.parameter == pytest.approx(-1 / np.log(0.8), rel=0.1)
    assert found.exponential.height == pytest.approx(16, rel=0.1)
    assert found.exponential.explained > 0.99


@pytest.mark.parametrize("seed", range(5))
def test_a_random_order_has_no_exponent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = stationary(fractional(0.4, 30), num_users=800, dim=8, rng=rng, between=0.5)
    found = decay_of(values, max_lag=25, seed=seed, is_permuted=True)
    assert found.power is None
    assert found.exponential is None
    assert found.preferred is None
    assert found.power_reason is not None
    assert "cannot be told from 0" in found.power_reason
    assert found.slope is not None
    low, high = found.slope[1]
    assert low - 0.02 < 0 < high + 0.02
    assert found.to_dict()["power"] is None


def test_taste_that_never_changes_has_no_exponent() -> None:
    histories = histories_of([[1] * 30] * 20 + [[2] * 30] * 20)
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    rng = np.random.default_rng(0)
    found = measure_dependence(histories, histories, np.arange(1, 41), vectors, max_lag=20)
    decay = fit_decay(found, num_resamples=50, rng=rng)
    assert decay.slope is not None
    assert decay.slope[0] == pytest.approx(0.0, abs=1e-12)
    assert decay.power_reason is not None
    assert "cannot be told from 0" in decay.power_reason


def test_memory_of_one_step_has_no_exponent() -> None:
    """A moving average of two: nothing from the second lag on, so no shape can be seen."""
    rng = np.random.default_rng(0)
    values = stationary([1.0, 0.45] + [0.0] * 28, num_users=3000, dim=16, rng=rng)
    found = decay_of(values, max_lag=25)
    assert found.power is None
    assert found.power_reason is not None
    assert "too fast or too slowly" in found.power_reason
    assert found.slope is None
    assert found.slope_reason == "Dep_L is not above 0 at every lag"


def test_too_few_long_histories() -> None:
    values = np.random.default_rng(0).normal(size=(29, 20, 4))
    found = decay_of(values)
    assert found.power_reason == found.slope_reason
    assert found.slope_reason == (
        "fewer than 5 lags have 30 users with a history longer than the lag"
    )
    assert found.lags.tolist() == []
    assert found.to_dict()["slope"] is None


@pytest.mark.slow
def test_intervals_hold_the_slope_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(40):
        values = stationary(fractional(0.4, 12), num_users=600, dim=8, rng=rng)
        slope = decay_of(values, max_lag=10, seed=seed).slope
        assert slope is not None
        held += slope[1][0] <= -0.4 <= slope[1][1]
    assert held >= 34  # of 40 at 95%; fewer has a chance of 0.003
