"""Exact search equals brute force, whatever the blocks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.errors import UsageError
from ensue.indexes import exact
from ensue.indexes.base import Index
from ensue.indexes.exact import ExactConfig, ExactIndex
from ensue.indexes.vectors import ItemVectors
from tests.indexes.brute import brute_force, index_of


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 70),
    st.integers(1, 400),
    st.integers(1, 9),
    st.integers(1, 420),
)
def test_equals_brute_force_with_ties(
    seed: int, num_queries: int, num_items: int, dim: int, k: int
) -> None:
    """Small whole numbers have exact products, and many that are equal."""
    rng = np.random.default_rng(seed)
    items = rng.integers(-2, 3, (num_items, dim)).astype(np.float32)
    queries = rng.integers(-2, 3, (num_queries, dim)).astype(np.float32)
    ids, scores = index_of(items).search(queries, k)
    expected_ids, expected = brute_force(queries @ items.T, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("num_queries", [1, 3, 130])
def test_equals_brute_force_on_the_products_of_its_blocks(
    num_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "BLOCK", 1 << 13)
    monkeypatch.setattr(exact, "ROWS", 64)
    rng = np.random.default_rng(0)
    items = rng.standard_normal((1100, 17), dtype=np.float32)
    queries = rng.standard_normal((num_queries, 17), dtype=np.float32)
    ids, scores = index_of(items).search(queries, 40)
    for first in range(0, num_queries, 64):
        part = queries[first : first + 64]
        width = (1 << 13) // min(64, num_queries) if first == 0 else (1 << 13) // len(part)
        blocks = [part @ items[n : n + width].T for n in range(0, 1100, width)]
        expected_ids, expected = brute_force(np.concatenate(blocks, axis=1), 40)
        np.testing.assert_array_equal(ids[first : first + 64], expected_ids)
        np.testing.assert_array_equal(scores[first : first + 64], expected)


def test_blocks_and_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    items = rng.integers(-3, 4, (1500, 8)).astype(np.float32)
    queries = rng.integers(-3, 4, (40, 8)).astype(np.float32)
    expected = index_of(items).search(queries, 300)
    monkeypatch.setattr(exact, "BLOCK", 1 << 10)
    for rows, memory_bytes in ((1, 1 << 26), (7, 1 << 26), (512, 1 << 16)):
        monkeypatch.setattr(exact, "ROWS", rows)
        found = index_of(items, memory_bytes=memory_bytes).search(queries, 300)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_memory_is_that_of_blocks() -> None:
    """Far below queries x items, which would be 160 MB."""
    rng = np.random.default_rng(0)
    items = rng.standard_normal((100_000, 4), dtype=np.float32)
    queries = rng.standard_normal((400, 4), dtype=np.float32)
    index = index_of(items)
    index.search(queries[:1], 10)
    tracemalloc.start()
    index.search(queries, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_biases_are_added() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(-3, 4, (50, 5)).astype(np.float32)
    queries = rng.integers(-3, 4, (6, 4)).astype(np.float32)
    index = ExactIndex(ItemVectors(rows, has_bias=True))
    ids, scores = index.search(queries, 9)
    expected_ids, expected = brute_force(queries @ rows[:, :4].T + rows[:, 4], 9)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected)


def test_more_answers_than_items_end_with_padding() -> None:
    ids, scores = index_of(np.array([[1.0], [3.0], [2.0]])).search(np.ones((2, 1), np.float32), 5)
    assert ids.tolist() == [[2, 3, 1, 0, 0]] * 2
    assert scores.tolist() == [[3.0, 2.0, 1.0, -np.inf, -np.inf]] * 2
    assert (ids.dtype, scores.dtype) == (np.int64, np.float32)


def test_is_an_index() -> None:
    index = index_of(np.zeros((7, 2)))
    assert isinstance(index, Index)
    assert index.num_items == 7
    assert index.search(np.zeros((0, 2), np.float32), 3)[0].shape == (0, 3)


def test_wrong_queries_are_one_sentence() -> None:
    index = index_of(np.zeros((7, 2)))
    queries = np.zeros((3, 2), dtype=np.float32)
    for value in (np.nan, np.inf):
        queries[1, 0] = value
        with pytest.raises(UsageError, match="finite queries; query 1 holds NaN or infinity"):
            index.search(queries, 2)
    with pytest.raises(UsageError, match=r"needs queries \[B, 2\]; got \(3, 3\)"):
        index.search(np.zeros((3, 3), dtype=np.float32), 2)
    with pytest.raises(UsageError, match="k >= 1; got 0"):
        index.search(np.zeros((3, 2), dtype=np.float32), 0)
    assert ExactConfig().memory_bytes == 64 << 20
