"""How numbers are stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from ensue.data.ranking.scaling import HEAVY_TAIL, Moments, fit_scaling

NUMBERS = st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6))


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), max_size=4))
def test_moments_of_chunks(chunks: list[list[tuple[float, float]]]) -> None:
    moments = Moments(2)
    for chunk in chunks:
        moments.add(np.array(chunk, dtype=np.float64).reshape(len(chunk), 2))
    together = np.array([row for chunk in chunks for row in chunk], dtype=np.float64).reshape(-1, 2)
    for column, deviation in enumerate(moments.deviation()):
        there = together[:, column][~np.isnan(together[:, column])]
        assert moments.count[column] == len(there)
        if len(there):
            assert_allclose(moments.mean[column], there.mean(), atol=1e-6)
            is_spread = there.min() < there.max() and there.std() > 1e-100
            assert_allclose(deviation, there.std() if is_spread else 1.0, rtol=1e-6, atol=1e-6)


def test_heavy_tails_are_told_by_ten_deviations() -> None:
    light = np.arange(1000.0)
    heavy = np.append(np.ones(999), 1e6)  # (1e6 - mean) is 31.6 deviations
    chunk = np.stack([light, heavy, heavy, light, np.full(1000, np.nan)], axis=1)
    scaling, counts = fit_scaling([chunk], ["auto", "auto", "plain", "log", "auto"])
    assert scaling.is_log.tolist() == [False, True, False, True, False]
    assert counts.tolist() == [1000, 1000, 1000, 1000, 0]
    stored = scaling.apply(chunk)
    assert np.isnan(stored[:, 4]).all()
    assert_allclose(stored[:, :4].mean(axis=0), 0.0, atol=1e-5)
    assert_allclose(stored[:, :4].std(axis=0), 1.0, atol=1e-4)
    logs = np.log1p(heavy)
    assert_allclose(stored[:, 1], (logs - logs.mean()) / logs.std(), rtol=1e-5)
    assert HEAVY_TAIL == 10.0


def test_one_value_has_deviation_one() -> None:
    scaling, _ = fit_scaling([np.full((5, 1), 7.0)], ["auto"])
    assert (scaling.means[0], scaling.deviations[0]) == (7.0, 1.0)
    assert scaling.apply(np.array([[9.0]]))[0, 0] == pytest.approx(2.0)


def test_signs_stay() -> None:
    scaling, _ = fit_scaling([np.array([[-100.0], [100.0]])], ["log"])
    assert scaling.apply(np.array([[-100.0], [100.0], [0.0]])).ravel().tolist() == [-1.0, 1.0, 0.0]
