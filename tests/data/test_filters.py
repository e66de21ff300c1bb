from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.filters import parse_filters
from ensue.data.row_store import RowStore
from ensue.errors import UsageError

NUM_USERS, NUM_ITEMS = 5, 4
DTYPES = {
    "user": np.dtype(np.int32),
    "item": np.dtype(np.int32),
    "time": np.dtype(np.int64),
    "rating": np.dtype(np.float64),
}
Row = tuple[int, int, int, float]


def apply(text: str, rows: list[Row], *, memory_bytes: int = 1 << 20) -> list[Row]:
    store = RowStore(DTYPES, Path("unused"), memory_bytes=1 << 20)
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    store.append({n: np.array(v) for n, v in zip(DTYPES, columns, strict=True)})
    (one,) = parse_filters([text], labels=["rating"])
    kept = one.apply(store, NUM_USERS, NUM_ITEMS, memory_bytes)
    return list(zip(*(kept.column(name).tolist() for name in DTYPES), strict=True))


def rows_of(*pairs: tuple[int, int]) -> list[Row]:
    return [(user, item, 0, 1.0) for user, item in pairs]


def test_core_is_repeated_until_it_holds():
    # Item 1 has 2 rows until user 1, with 1 row, goes; then user 2 has 1 row left, and goes.
    rows = rows_of((0, 0), (0, 3), (2, 0), (2, 1), (1, 1), (3, 0), (3, 3))
    assert apply("k-core=2", rows) == rows_of((0, 0), (0, 3), (3, 0), (3, 3))


def test_one_sided_filters():
    rows = rows_of((0, 0), (0, 1), (1, 0))
    assert apply("min-length=2", rows) == rows[:2]
    assert apply("user-core=2", rows) == rows[:2]
    assert apply("item-core=2", rows) == [rows[0], rows[2]]
    assert apply("user-core=2, item-core=1", rows) == rows[:2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, NUM_USERS - 1), st.integers(0, NUM_ITEMS - 1)), max_size=40),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_core_leaves_the_largest_set_that_satisfies_it(pairs, users, items):
    expected = list(pairs)
    while True:
        by_user, by_item = Counter(u for u, _ in expected), Counter(i for _, i in expected)
        left = [(u, i) for u, i in expected if by_user[u] >= users and by_item[i] >= items]
        if left == expected:
            break
        expected = left
    assert apply(f"user-core={users},item-core={items}", rows_of(*pairs)) == rows_of(*expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rating>=3", [3.0, 4.0]),
        ("rating>3", [4.0]),
        ("rating <= 3", [2.0, 3.0]),
        ("rating<3", [2.0]),
        ("rating==3.0", [3.0]),
    ],
)
def test_label_filters(text, expected):
    rows = [(0, 0, 0, rating) for rating in (2.0, 3.0, 4.0, float("nan"))]
    assert [row[3] for row in apply(text, rows)] == expected


def test_time_filters_include_the_first_moment_and_not_the_last():
    day_us = 86_400_000_000
    rows = [(0, 0, time, 1.0) for time in (day_us - 1, day_us, 2 * day_us)]
    assert [row[2] for row in apply("since=1970-01-02", rows)] == [day_us, 2 * day_us]
    assert [row[2] for row in apply("until=1970-01-02T00:00Z", rows)] == [day_us - 1]


@pytest.mark.parametrize("memory_bytes", [1 << 20, 100])
def test_repeats_are_consecutive_in_time_and_of_one_user(memory_bytes):
    rows = [(1, 2, 5, 1.0), (0, 2, 1, 2.0), (1, 3, 7, 3.0), (1, 2, 6, 4.0), (1, 2, 8, 5.0)]
    kept = apply("drop-repeats", rows, memory_bytes=memory_bytes)
    # user 1 in time order: item 2, 2, 3, 2
    assert [row[3] for row in kept] == [2.0, 1.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kcore=5", "'kcore' is unknown. Did you mean 'k-core'"),
        ("drop-repeat", "Did you mean 'drop-repeats'"),
        ("k-core=five", "whole number"),
        ("k-core", "whole number"),
        ("k-core=5,min-length=3", "only user-core and item-core go together"),
        ("since=soon", "2020-01-31"),
        ("stars>=4", r"label column 'stars'; the labels are \['rating'\]"),
        ("rating>=high", "a number after >="),
    ],
)
def test_texts_that_are_no_filters(text, message):
    with pytest.raises(UsageError, match=message):
        parse_filters([text], labels=["rating"])


def test_time_filter_without_times():
    with pytest.raises(UsageError, match="no time column"):
        parse_filters(["since=2020-01-01"], labels=[], has_time=False)
