from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensue.evaluation.ranking import external_sort
from ensue.evaluation.ranking.external_sort import Sorter, SortPool, sort_pairs


def random_pairs(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Few high words, so that many are equal and low words decide; both up to 2**64 - 1."""
    rng = np.random.default_rng(seed)
    high = rng.choice(rng.integers(0, 2**64, 40, dtype=np.uint64), num_rows)
    low = rng.choice(rng.integers(0, 2**64, 200, dtype=np.uint64), num_rows)
    return high, low


def expected(high: np.ndarray, low: np.ndarray) -> list[tuple[int, int]]:
    return sorted(zip(high.tolist(), low.tolist(), strict=True))


def drain(sorter: Sorter) -> list[tuple[int, int]]:
    blocks = list(sorter.blocks())
    return [pair for high, low in blocks for pair in zip(high.tolist(), low.tolist(), strict=True)]


def test_pairs_are_sorted_by_both_words():
    high, low = random_pairs(500)
    found = sort_pairs(high, low)
    assert list(zip(*(words.tolist() for words in found), strict=True)) == expected(high, low)


@pytest.mark.parametrize("memory", [1 << 14, 1 << 17, 1 << 24])
@pytest.mark.parametrize("chunk", [37, 1000])
def test_any_limit_and_chunk_sorts(tmp_path: Path, memory: int, chunk: int):
    high, low = random_pairs(6000)
    sorter = SortPool(tmp_path, memory).sorter()
    for first in range(0, len(high), chunk):
        sorter.add(high[first : first + chunk], low[first : first + chunk])
    assert bool(list(tmp_path.iterdir())) == (memory < 1 << 19)
    assert drain(sorter) == expected(high, low)
    assert not list(tmp_path.iterdir())
    assert drain(sorter) == []


@pytest.mark.parametrize("direction", [1, -1])
def test_rows_that_come_in_order_and_more_runs_than_are_merged_at_once(
    tmp_path: Path, direction: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(external_sort, "MAX_RUNS", 4)
    high = np.arange(3000, dtype=np.uint64)[::direction].copy()
    sorter = SortPool(tmp_path, 1 << 13).sorter()
    for first in range(0, 3000, 100):
        sorter.add(high[first : first + 100], high[first : first + 100])
    assert len(list(tmp_path.iterdir())) > 3 * 4
    assert drain(sorter) == [(n, n) for n in range(3000)]
    assert not list(tmp_path.iterdir())


def test_rows_that_are_all_equal(tmp_path: Path):
    sorter = SortPool(tmp_path, 1 << 14).sorter()
    ones = np.ones(1000, dtype=np.uint64)
    for _ in range(5):
        sorter.add(ones, ones)
    assert drain(sorter) == [(1, 1)] * 5000


def test_the_largest_sorter_spills_for_all(tmp_path: Path):
    pool = SortPool(tmp_path, 1 << 16)
    small, large = pool.sorter(), pool.sorter()
    high, low = random_pairs(3000)
    small.add(high[:10], low[:10])
    for first in range(0, 3000, 100):
        large.add(high[first : first + 100], low[first : first + 100])
    assert small.held_bytes > 0
    assert list(tmp_path.iterdir())
    assert drain(small) == expected(high[:10], low[:10])
    assert drain(large) == expected(high, low)
