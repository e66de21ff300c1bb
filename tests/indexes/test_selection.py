"""The best k of rows whose columns come in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensue.indexes import selection
from ensue.indexes.selection import Selection, room
from tests.indexes.brute import brute_force


def select(scores: NDArray[np.float32], k: int, width: int) -> tuple[NDArray, NDArray]:
    chosen = Selection(len(scores), k, scores.shape[1])
    for first in range(0, scores.shape[1], width):
        chosen.add(np.ascontiguousarray(scores[:, first : first + width]), first + 1)
    return chosen.best(k)


def assert_equals_brute_force(scores: NDArray[np.float32], k: int, width: int) -> None:
    ids, best = select(scores, k, width)
    expected_ids, expected = brute_force(scores, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(best, expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.integers(1, 300),
    st.integers(1, 330),
    st.integers(1, 90),
    st.sampled_from([1, 2, 5, 1000]),
)
def test_any_scores_with_many_ties(
    seed: int, num_rows: int, num_columns: int, k: int, width: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels + 1, (num_rows, num_columns)).astype(np.float32) / 4
    assert_equals_brute_force(scores, k, width)


@pytest.mark.parametrize("order", ["rising", "falling", "random", "equal"])
def test_full_rows_are_sorted_out_in_any_order(order: str) -> None:
    scores = np.random.default_rng(1).standard_normal((3, 5000), dtype=np.float32)
    if order == "equal":
        scores[:] = 2.5
    elif order != "random":
        scores = np.sort(scores, axis=1)[:, :: 1 if order == "rising" else -1]
    assert room(10, 5000) < 100  # so that rows are full many times
    assert_equals_brute_force(np.ascontiguousarray(scores), 10, 256)


def test_signs_zeros_and_extremes_keep_the_order_of_floats() -> None:
    big = np.finfo(np.float32).max
    row = [-0.0, 0.0, -1e-45, 1e-45, big, -big, np.inf, -1.5, 1.5, 0.0, -0.0]
    scores = np.array([row], dtype=np.float32)
    ids, best = select(scores, 11, 4)
    assert ids[0].tolist() == [7, 5, 9, 4, 1, 2, 10, 11, 3, 8, 6]
    assert best[0, :3].tolist() == [np.inf, big, 1.5]


def test_nan_and_minus_infinity_are_never_taken() -> None:
    scores = np.array([[np.nan, 1.0, -np.inf, 0.5, np.nan]], dtype=np.float32)
    ids, best = select(scores, 4, 2)
    assert ids[0].tolist() == [2, 4, 0, 0]
    assert best[0].tolist() == [1.0, 0.5, -np.inf, -np.inf]


def test_few_scores_enter_a_row() -> None:
    """About k (1 + log(I / k)) of scores in random order, so that no more is spent on them."""
    num_columns, k = 40_000, 20
    scores = np.random.default_rng(2).standard_normal((20, num_columns), dtype=np.float32)
    chosen = Selection(len(scores), k, num_columns)
    entered = 0
    for first in range(0, num_columns, 64):
        before = chosen._thresholds.copy()
        block = np.ascontiguousarray(scores[:, first : first + 64])
        chosen.add(block, first + 1)
        entered += int((block > before[:, None]).sum())
    assert entered / len(scores) < 3 * k * (1 + np.log(num_columns / k))


def test_a_row_has_room_for_more_than_k_and_no_more_than_there_are() -> None:
    assert room(1, 10**6) == 1 + selection.MIN_SPARE
    assert room(100, 10**6) == 300
    assert room(10**5, 10**6) == 10**5 + selection.MAX_SPARE
    assert room(100, 7) == 7
    assert room(1, 0) == 1
