from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.evaluation.profile import counts
from ensue.evaluation.profile.counts import (
    count_repeats,
    describe_lengths,
    describe_popularity,
    describe_times,
)
from tests.contracts.planted import histories_of

some_counts = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


@given(some_counts)
def test_gini_is_half_the_relative_mean_difference(values: list[int]) -> None:
    differences = [abs(a - b) for a in values for b in values]
    expected = np.mean(differences) / (2 * np.mean(values))
    assert describe_popularity(np.array(values))["gini"] == pytest.approx(expected)


def test_shares_of_the_top_items() -> None:
    top = describe_popularity(np.array([1] * 90 + [11] * 10))["top"]
    assert top == pytest.approx(
        {"1": 11 / 200, "5": 55 / 200, "10": 110 / 200, "20": 120 / 200, "50": 150 / 200}
    )
    assert describe_popularity(np.array([5, 1, 1]))["top"]["1"] == pytest.approx(5 / 7)


def test_the_curve_has_ends_and_few_points() -> None:
    curve = describe_popularity(np.arange(100_000))["curve"]
    assert (curve["rank"][0], curve["rank"][-1]) == (1, 100_000)
    assert len(curve["rank"]) <= counts.MAX_POINTS
    # the item of rank r has 100,000 - r interactions
    assert curve["interactions"] == [100_000 - rank for rank in curve["rank"]]


def test_no_interactions_have_no_popularity() -> None:
    assert describe_popularity(np.zeros(3, dtype=np.int64))["gini"] is None


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_lengths(lengths: list[int]) -> None:
    found = describe_lengths(np.array(lengths))
    edges, users = found["histogram"]["edges"], found["histogram"]["users"]
    assert edges == sorted(set(edges))
    assert users == [
        sum(low <= length < high for length in lengths) for low, high in pairwise(edges)
    ]
    assert sum(users) == len(lengths)
    assert found["mean"] == pytest.approx(sum(lengths) / len(lengths))
    for percent in (25, 50, 95):
        least = min(
            x for x in lengths if 100 * sum(y <= x for y in lengths) >= percent * len(lengths)
        )
        assert found["quantiles"][str(percent)] == least


def test_no_lengths() -> None:
    assert describe_lengths(np.array([], dtype=np.int64))["mean"] is None


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), max_size=7), max_size=6).filter(any))
def test_repeats_equal_the_definition(lists: list[list[int]]) -> None:
    total = sum(map(len, lists))
    repeats = [[item in history[:i] for i, item in enumerate(history)] for history in lists]
    immediate = sum(a == b for h in lists for a, b in pairwise(h))
    assert count_repeats(histories_of(lists)) == pytest.approx(
        {
            "share": sum(map(sum, repeats)) / total,
            "immediate": immediate / total,
            "users": sum(map(any, repeats)) / sum(map(bool, lists)),
        }
    )


def test_repeats_by_hand_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "COUNT_ROWS", 2)
    found = count_repeats(histories_of([[1, 1, 2, 1], [1], [2, 3]]))
    assert found == pytest.approx({"share": 2 / 7, "immediate": 1 / 7, "users": 1 / 3})
    assert count_repeats(histories_of([[]])) == {"share": 0.0, "immediate": 0.0, "users": 0.0}


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_times(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(counts, "COUNT_ROWS", rows)
    day = 86_400_000_000
    times = np.array([0, 0, 3 * day, 3 * day, 3 * day])  # the fourth is another user's first
    found = describe_times(times, np.array([1, 1, 1, 2, 2], dtype=np.int32))
    assert found == {
        "first": "1970-01-01T00:00:00",
        "last": "1970-01-04T00:00:00",
        "days": 3.0,
        "tied": 2 / 5,
    }
