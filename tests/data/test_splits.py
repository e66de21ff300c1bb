from __future__ import annotations

from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data import splits
from ensue.data.row_store import RowStore
from ensue.data.splits import fix_cutoffs, nth_time, parse_split
from ensue.errors import UsageError


def assign(text: str, lengths: list[int], times: list[int] | None = None) -> list[list[int]]:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    parts = parse_split(text, has_files=False).assign(
        offsets, None if times is None else np.array(times), None
    )
    return [rows.tolist() for rows in np.split(parts, offsets[1:-1])]


def test_leave_one_out_needs_three_rows():
    assert assign("leave-one-out", [1, 2, 3, 5]) == [[0], [0, 0], [0, 1, 2], [0, 0, 0, 1, 2]]


def test_ratio_is_exact_for_every_length():
    # 0.7 * 10 is 7 and 0.7 + 0.1 is 0.8 here; in floating point ceil(0.1 * 3 * 10) would be 4
    lengths = list(range(1, 300))
    for length, rows in zip(lengths, assign("ratio", lengths), strict=True):
        train, validation = -(-7 * length // 10), -(-8 * length // 10)
        assert [rows.count(0), rows.count(0) + rows.count(1)] == [train, validation]
        assert rows == sorted(rows)


@given(
    st.integers(1, 20).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
    st.integers(1, 500),
)
@settings(max_examples=50, deadline=None)
def test_ratio_of_any_fraction(share, length):
    train = Fraction(*share)
    (rows,) = assign(f"ratio:{train},{1 - train},0", [length])
    assert rows.count(0) == ceil(train * length)


def test_time_cutoffs_begin_validation_and_test():
    times = [time * 1_000_000 for time in (5, 10, 19, 20, 7)]
    text = "time:1970-01-01T00:00:10,1970-01-01T00:00:20"
    assert assign(text, [4, 1], times) == [[0, 1, 1, 2], [0]]


def test_none_is_all_training():
    assert assign("none", [2, 1]) == [[0, 0], [0]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=50), st.integers(0, 49), st.booleans())
def test_nth_time_is_that_of_the_sorted_times(times, rank, few_bins):
    rank %= len(times)
    store = RowStore({"time": np.dtype(np.int64)}, Path("unused"), memory_bytes=1 << 20)
    store.append({"time": np.array(times)})
    with pytest.MonkeyPatch.context() as patch:
        if few_bins:
            patch.setattr(splits, "_NUM_BINS", 4)
        assert nth_time(store, rank) == sorted(times)[rank]


def test_shares_of_rows_become_cutoffs():
    store = RowStore({"time": np.dtype(np.int64)}, Path("unused"), memory_bytes=1 << 20)
    store.append({"time": np.array([4, 3, 2, 1, 0, 5, 6, 7, 8, 9]) * 1_000_000})
    split = fix_cutoffs(parse_split("time:0.8,0.9", has_files=False), store)
    assert split.cutoffs_us == (8_000_000, 9_000_000)
    assert split.as_dict() == {
        "kind": "time",
        "shares": ["4/5", "9/10"],
        "cutoffs": ["1970-01-01T00:00:08+00:00", "1970-01-01T00:00:09+00:00"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaveoneout", "Did you mean 'leave-one-out'"),
        ("ratio:0.7,0.1", "add up to 1"),
        ("ratio:0.7,0.1,0.1", "add up to 1"),
        ("ratio:a,b,c", "add up to 1"),
        ("time", "time:0.8,0.9"),
        ("time:0.9,0.8", "in this order"),
        ("time:2020-02-01,2020-01-01", "in this order"),
        ("time:soon,later", "2020-01-31"),
        ("none:1", "takes no settings"),
    ],
)
def test_texts_that_are_no_splits(text, message):
    with pytest.raises(UsageError, match=message):
        parse_split(text, has_files=False)


def test_files_and_split_files_go_together():
    assert parse_split(None, has_files=True).kind == "files"
    assert parse_split(None, has_files=False).kind == "leave-one-out"
    with pytest.raises(UsageError, match="with such files"):
        parse_split("ratio", has_files=True)
