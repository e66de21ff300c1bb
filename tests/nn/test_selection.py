"""Sorting and selecting against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensue.nn.selection import best_of_row, keep_best, largest_places, sort_


@settings(max_examples=60, deadline=None)
@given(arrays(np.int64, st.integers(0, 300), elements=st.integers(-50, 50)))
def test_sorted_as_numpy_sorts(values):
    expected = np.sort(values)
    sort_(values)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("size", [16, 17, 32, 33, 1000, 4097])
def test_sorted_forwards_backwards_and_at_random(size):
    ascending = np.arange(size)
    for values in (ascending, ascending[::-1], np.random.default_rng(0).permutation(size)):
        own = values.copy()
        sort_(own)
        np.testing.assert_array_equal(own, ascending)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 12))
def test_the_best_are_the_first_of_a_whole_sort(drawn, k):
    values = np.array(drawn, dtype=np.float64)
    found = np.random.default_rng(0).permutation(len(values)).astype(np.int64)
    ids, scores = np.full(k, -1), np.zeros(k)
    keep_best(found, values, ids, scores)
    order = np.lexsort([found, -values])[:k]  # the smallest ids of equal values
    kept = ids >= 0
    assert dict(zip(ids[kept], scores[kept], strict=True)) == dict(
        zip(found[order], values[order], strict=True)
    )
    places = np.sort(np.lexsort([np.arange(len(values)), -values])[:k])
    np.testing.assert_array_equal(largest_places(values, k), places)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 30), st.integers(1, 12))
def test_the_best_of_a_row_are_those_of_a_sort(data, width, k):
    drawn = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0])
    scores = data.draw(arrays(np.float32, width, elements=drawn))
    is_hidden = data.draw(arrays(np.bool_, width))
    columns = st.integers(0, width - 1)
    excluded = np.array(data.draw(st.lists(columns, max_size=5)), dtype=np.int64)
    may = ~is_hidden
    may[excluded] = False
    expected = np.lexsort([np.arange(width), -scores])  # the smallest columns of equal scores
    expected = expected[may[expected]][:k]
    ids, values, before = np.zeros(k, np.int64), np.zeros(k, np.float32), scores.copy()
    count = best_of_row(scores, is_hidden, excluded, ids, values)
    assert ids[:count].tolist() == expected.tolist()
    assert values[:count].tolist() == before[expected].tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_told(bad):
    scores, ids, values = np.zeros(4, np.float32), np.zeros(2, np.int64), np.zeros(2, np.float32)
    scores[2] = bad
    assert best_of_row(scores, np.ones(4, np.bool_), np.array([2]), ids, values) == -1
