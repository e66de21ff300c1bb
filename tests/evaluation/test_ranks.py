from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensue.evaluation.ranks import TILE, BlockRanks, Jagged, rank_block


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def jagged(lists: list[list[int]]) -> Jagged:
    return Jagged(
        np.array([item for items in lists for item in items], dtype=np.int32),
        np.concatenate([[0], np.cumsum([len(items) for items in lists])]).astype(np.int64),
    )


def by_sorting(
    scores: NDArray[np.float32], targets: list[list[int]], seen: list[list[int]], k: int
) -> BlockRanks:
    """The definition: sort the candidates by descending score, then ascending id."""
    ranks, top, num_candidates = [], [], []
    for row, own, hidden in zip(scores.tolist(), targets, seen, strict=True):
        candidates = [item for item in range(1, len(row)) if item not in set(hidden)]
        ranking = sorted(candidates, key=lambda item, row=row: (-row[item], item))
        ranks += [ranking.index(item) + 1 if item in ranking else 0 for item in own]
        top.append((ranking + [0] * k)[:k])
        num_candidates.append(len(ranking))
    return BlockRanks(
        np.array(ranks, dtype=np.int64), np.array(top), np.array(num_candidates, dtype=np.int64)
    )


def check(
    scores: NDArray[np.float32],
    targets: list[list[int]],
    seen: list[list[int]],
    k: int,
    pool: ThreadPoolExecutor,
) -> None:
    before = scores.copy()
    result = rank_block(scores, jagged(targets), jagged(seen), k=k, pool=pool)
    expected = by_sorting(scores, targets, seen, k)
    assert result.ranks.tolist() == expected.ranks.tolist()
    assert result.top.tolist() == expected.top.tolist()
    assert result.num_candidates.tolist() == expected.num_candidates.tolist()
    np.testing.assert_array_equal(scores, before)


@st.composite
def blocks(
    draw: st.DrawFn,
) -> tuple[NDArray[np.float32], list[list[int]], list[list[int]], int]:
    num_items = draw(st.integers(1, 12))
    num_users = draw(st.integers(1, 20))
    values = draw(st.sampled_from([[0.0], [0.0, 1.0], [-np.inf, -1.5, 0.0, 2.5, np.inf]]))
    items = st.integers(1, num_items)
    scores = draw(
        st.lists(
            st.lists(st.sampled_from(values), min_size=num_items + 1, max_size=num_items + 1),
            min_size=num_users,
            max_size=num_users,
        )
    )
    each = {"min_size": num_users, "max_size": num_users}
    targets = draw(st.lists(st.lists(items, min_size=1, unique=True), **each))
    seen = draw(st.lists(st.lists(items, max_size=2 * num_items), **each))
    return np.array(scores, dtype=np.float32), targets, seen, draw(st.integers(1, 15))


@settings(max_examples=60, deadline=None)
@given(block=blocks())
def test_counting_equals_sorting_with_ties(
    block: tuple[NDArray[np.float32], list[list[int]], list[list[int]], int],
    pool: ThreadPoolExecutor,
) -> None:
    scores, targets, seen, k = block
    check(scores, targets, seen, k, pool)


@pytest.mark.parametrize("num_values", [3, 40, 10**6])
@pytest.mark.parametrize("num_items", [TILE - 1, TILE, 2 * TILE + 37])
def test_counting_equals_sorting_over_several_tiles(
    num_values: int, num_items: int, pool: ThreadPoolExecutor
) -> None:
    rng = np.random.default_rng(num_values + num_items)
    scores = rng.integers(0, num_values, (9, num_items + 1)).astype(np.float32)
    targets = [rng.choice(num_items, 40, replace=False) + 1 for _ in scores]
    seen = [rng.integers(1, num_items + 1, 300) for _ in scores]
    check(scores, [t.tolist() for t in targets], [s.tolist() for s in seen], 20, pool)


def test_the_padding_column_has_no_meaning(pool: ThreadPoolExecutor) -> None:
    for padding in (np.nan, np.inf, -np.inf):
        scores = np.array([[padding, 1.0, 2.0]], dtype=np.float32)
        result = rank_block(scores, jagged([[1]]), jagged([[]]), k=3, pool=pool)
        assert result.ranks.tolist() == [2]
        assert result.top.tolist() == [[2, 1, 0]]


def test_nan_is_reported_for_its_user_alone(pool: ThreadPoolExecutor) -> None:
    scores = np.zeros((3, 2 * TILE), dtype=np.float32)
    scores[1, TILE + 5] = np.nan
    seen = jagged([[], [TILE + 5], []])  # also where the item would not be ranked
    result = rank_block(scores, jagged([[1], [1], [1]]), seen, k=1, pool=pool)
    assert result.num_candidates.tolist() == [2 * TILE - 1, -1, 2 * TILE - 1]
