from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensue.audit.projection import FakeUpdate

NONE = np.empty(0, np.int64)


def make(threshold: float = 0.05, **settings: Any) -> FakeUpdate:
    plain = {"lr": 1.0, "momentum": 0.5, "is_normalized": True, "limit": None, "always": NONE}
    return FakeUpdate(threshold=threshold, **{**plain, **settings})


@given(
    hnp.arrays(np.float32, (3, 50), elements=st.floats(-10, 10, width=32)),
    st.sampled_from([0.1, 0.2, 0.5]),
)
def test_first_step_clicks_few(gradient: np.ndarray, threshold: float) -> None:
    after = make(threshold).step(np.zeros((3, 50), np.bool_), gradient)
    assert after.dtype == np.bool_
    assert (after.sum(axis=1) <= 1 / threshold**2).all()
    assert not after[gradient >= 0].any()


def test_steps_by_hand() -> None:
    update = make(0.2, is_normalized=False)
    fakes = np.array([[True, True, False, False]])
    gradient = np.array([[0.5, 0.9, -0.1, -0.3]], np.float32)
    fakes = update.step(fakes, gradient)  # 0.5, 0.1, 0.1, 0.3
    assert fakes.tolist() == [[True, False, False, True]]
    fakes = update.step(fakes, np.zeros((1, 4), np.float32))  # velocity is halved: 0.75, -0.45, ..
    assert fakes.tolist() == [[True, False, False, True]]
    fakes = update.step(fakes, np.array([[0.7, 0, -0.2, 0]], np.float32))
    # velocities 0.825, 0.225, -0.225, -0.075
    assert fakes.tolist() == [[False, False, True, True]]


def test_rows_are_divided_by_their_length_and_zeros_stay() -> None:
    fakes = np.array([[False, False], [True, False]])
    gradient = np.array([[-30.0, -40.0], [0, 0]], np.float32)
    assert make(0.7).step(fakes, gradient).tolist() == [[False, True], [True, False]]
    assert gradient[0, 0] == -30  # the caller's is left alone


def test_targets_are_always_clicked_and_have_no_part_in_the_length() -> None:
    fakes = np.zeros((1, 3), np.bool_)
    gradient = np.array([[1000.0, -3.0, -4.0]], np.float32)
    after = make(0.7, always=np.array([0])).step(fakes, gradient)
    assert after.tolist() == [[True, False, True]]


def test_only_long_rows_are_shortened() -> None:
    update = make(0.7, is_normalized=False, limit=1.0)
    gradient = np.array([[-300.0, -400.0], [-0.8, 0]], np.float32)
    after = update.step(np.zeros((2, 2), np.bool_), gradient)
    assert after.tolist() == [[False, True], [True, False]]  # steps of 0.6, 0.8 and 0.8, 0
