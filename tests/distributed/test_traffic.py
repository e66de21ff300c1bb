from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.distributed.traffic import (
    Traffic,
    all_gather_bytes,
    all_reduce_bytes,
    reduce_scatter_bytes,
)


@given(num_workers=st.integers(1, 9), rows=st.integers(0, 50), width=st.integers(0, 9))
def test_formulas_are_those_of_a_ring(num_workers, rows, width):
    share = Fraction(num_workers - 1, num_workers)
    num_elements = num_workers * rows * width
    scattered = reduce_scatter_bytes(4 * num_elements, num_workers)
    gathered = all_gather_bytes(4 * rows * width, num_workers)
    assert scattered == gathered == 4 * num_elements * share
    assert all_reduce_bytes(num_elements, 4, num_workers) == 2 * 4 * num_elements * share


@given(num_workers=st.integers(1, 9), num_elements=st.integers(0, 100))
def test_an_all_reduce_of_any_size_counts_padded_parts(num_workers, num_elements):
    padded = num_elements
    while padded % num_workers:
        padded += 1
    expected = all_reduce_bytes(padded, 8, num_workers)
    assert all_reduce_bytes(num_elements, 8, num_workers) == expected


@pytest.mark.parametrize("add_twice", [False, True])
def test_taking_starts_again(add_twice):
    traffic = Traffic()
    traffic.add("ids", 5)
    traffic.add("dense", 7)
    if add_twice:
        traffic.add("ids", 6)
    ids = 11 if add_twice else 5
    assert traffic.total == ids + 7
    assert traffic.calls == {
        "ids": 1 + add_twice,
        "forward": 0,
        "backward": 0,
        "dense": 1,
        "other": 0,
    }
    assert traffic.take() == {"ids": ids, "forward": 0, "backward": 0, "dense": 7, "other": 0}
    assert traffic.total == sum(traffic.calls.values()) == sum(traffic.take().values()) == 0


def test_threads_lose_no_count():
    traffic = Traffic()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: [traffic.add("ids", 3) for _ in range(1000)], range(4)))
    assert traffic.take()["ids"] == 12_000
