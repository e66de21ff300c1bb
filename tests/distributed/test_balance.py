"""The balance of vocabularies, against the best one there is."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.distributed.balance import balance, vocabulary_loads, worker_totals
from ensue.errors import UsageError

SMALL = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=6)


def columns(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [rows for rows, _ in pairs], [lookups for _, lookups in pairs]


@given(SMALL, st.integers(1, 4))
@settings(max_examples=60)
def test_at_most_four_thirds_of_the_best(pairs: list[tuple[int, int]], workers: int) -> None:
    rows, lookups = columns(pairs)
    loads = vocabulary_loads(rows, lookups)
    held = balance(rows, lookups, workers, split_above=inf)
    assert all(len(ranks) == 1 for ranks in held)
    best = min(
        max(worker_totals([(rank,) for rank in ranks], loads, workers))
        for ranks in product(range(workers), repeat=len(rows))
    )
    assert max(worker_totals(held, loads, workers)) <= 4 / 3 * best + 1e-12


@given(
    st.lists(st.tuples(st.integers(0, 10**10), st.floats(0, 100)), min_size=1, max_size=30),
    st.integers(1, 64),
    st.sampled_from([0.5, 1.0, 1.5]),
)
def test_giants_are_split(pairs: list[tuple[int, float]], workers: int, split_above: float) -> None:
    rows, lookups = [one for one, _ in pairs], [one for _, one in pairs]
    loads = vocabulary_loads(rows, lookups)
    limit = split_above * sum(loads) / workers
    held = balance(rows, lookups, workers, split_above=split_above)
    for ranks, load, size in zip(held, loads, rows, strict=True):
        assert list(ranks) == sorted(set(ranks))
        assert 0 <= ranks[0] <= ranks[-1] < workers
        most = min(workers, max(size, 1))
        assert (len(ranks) > 1) == (load > limit * (1 + 1e-9) and most > 1)
        assert len(ranks) == most or load / len(ranks) < limit * 1.5 * (1 + 1e-8)
    assert sum(worker_totals(held, loads, workers)) == pytest.approx(sum(loads))


@given(st.lists(st.integers(100, 10**6), min_size=1, max_size=20), st.integers(1, 64))
def test_no_worker_is_without_rows(rows: list[int], workers: int) -> None:
    held = balance(rows, [1.0] * len(rows), workers)
    assert {rank for ranks in held for rank in ranks} == set(range(workers))


def test_a_field_of_users_that_has_nearly_all_rows() -> None:
    rows = [10**9, 10**5, 10**4, 10**3]
    held = balance(rows, [1, 1, 1, 1], 8)
    assert len(held[0]) == 5  # 1 of the rows and 1/4 of the lookups, where a worker has 2/8
    totals = worker_totals(held, rows, 8)
    assert max(totals) < 1.01 * 10**9 / 5
    # Equal ones stay whole: rounding makes no giants.
    assert balance([7] * 11, [0.1] * 11, 11) == [(rank,) for rank in range(11)]


@pytest.mark.parametrize(("count", "workers"), [(100, 1024), (3, 7), (26, 64), (7, 100)])
def test_more_workers_than_vocabularies_of_the_same_size(count: int, workers: int) -> None:
    held = balance([1000] * count, [1.0] * count, workers)
    totals = worker_totals(held, [1.0] * count, workers)
    assert min(totals) > 0
    # Some vocabularies have a piece less than others, and no worker has two pieces.
    assert max(totals) <= 1 / (workers // count)
    assert sum(len(ranks) for ranks in held) == workers


def test_edges() -> None:
    assert balance([5, 0, 3], [1, 1, 1], 1) == [(0,), (0,), (0,)]
    assert balance([], [], 3) == []
    # Empty tables are spread as well, and cannot be split.
    assert sorted(balance([0, 0, 0], [0, 0, 0], 3)) == [(0,), (1,), (2,)]
    assert balance([0, 100], [0, 0], 2)[0] in [(0,), (1,)]
    assert len(balance([1], [1], 4)[0]) == 1
    assert balance([4], [1], 4) == [(0, 1, 2, 3)]
    again = balance([9, 8, 7, 6], [1, 2, 3, 4], 3)
    assert again == balance([9, 8, 7, 6], [1, 2, 3, 4], 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1], 2), "of each vocabulary; got 2 and 1"),
        (([1, -2], [1, 1], 2), "0 or more; got -2"),
        (([1, 2], [1, float("nan")], 2), "0 or more; got nan"),
        (([1, 2], [1, 1], 0), "num_workers of 1 or more and split_above over 0; got 0"),
    ],
)
def test_wrong_use(arguments: tuple[list[int], list[float], int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        balance(*arguments)
    with pytest.raises(UsageError, match="got 2 and 0"):
        balance([1], [1], 2, split_above=0)
