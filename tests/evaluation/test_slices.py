from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.evaluation.intervals import Bootstrap
from ensue.evaluation.metrics import TargetRanks, all_metrics
from ensue.evaluation.slices import SLICES, TENTHS, popularity_slices, slice_users, top_tenth


def names(counts: list[int]) -> list[str]:
    return [SLICES[number] for number in popularity_slices(np.array([0, *counts]))[1:]]


def test_thirds_of_the_interactions() -> None:
    assert names([10, 5, 5, 4, 3, 2, 1]) == [
        "head",  # 0 of 30 before it
        "torso",  # 10 of 30
        "torso",  # 15 of 30
        "tail",  # 20 of 30
        "tail",
        "tail",
        "tail",
    ]


def test_an_item_that_crosses_a_third_belongs_to_the_more_popular_slice() -> None:
    assert names([8, 1, 1]) == ["head", "tail", "tail"]
    assert names([3, 3, 3, 3]) == ["head", "head", "torso", "tail"]  # 0, 3, 6, 9 of 12


def test_ties_go_by_id_and_items_without_interactions_are_new() -> None:
    assert names([0, 2, 2, 2, 0]) == ["new", "head", "torso", "tail", "new"]
    assert names([0, 0]) == ["new", "new"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_head_and_torso_end_as_soon_as_they_hold_their_share(counts: list[int]) -> None:
    slices = names(counts)
    order = sorted(range(len(counts)), key=lambda item: (-counts[item], item))
    total, before = sum(counts), 0
    for item in order:
        if counts[item] == 0:
            expected = "new"
        elif before < total / 3 - 1e-9:
            expected = "head"
        elif before < 2 * total / 3 - 1e-9:
            expected = "torso"
        else:
            expected = "tail"
        assert slices[item] == expected
        before += counts[item]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_the_top_tenth_holds_no_item_that_another_one_beats(counts: list[int]) -> None:
    parts = [TENTHS[part] for part in top_tenth(np.array([0, *counts]))[1:]]
    top = [n for n, part in enumerate(parts) if part == "top_tenth"]
    occurring = sum(count > 0 for count in counts)
    assert len(top) == -(-occurring // 10)
    rest = [count for count, part in zip(counts, parts, strict=True) if part == "rest"]
    assert all(counts[n] >= max(rest, default=0) for n in top)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(1, 12), min_size=1, max_size=9), min_size=1, max_size=6))
def test_users_are_cut_by_their_number_of_targets(ranks: list[set[int]]) -> None:
    """Below the cut pap@k is pauc@k; above it, pap@k is 1 where precision@k is, and only there."""
    metrics = all_metrics(TargetRanks.of([sorted(own) for own in ranks], length=30), (1, 3))
    sizes = np.array([len(own) for own in ranks])
    bootstrap = Bootstrap(9, 0.9, np.random.default_rng(0))
    found = slice_users(metrics, sizes, ks=(1, 3), bootstrap=bootstrap)
    expected = [k for k in (1, 3) if min(sizes) <= k < max(sizes)]
    assert list(found) == [f"targets{sign}{k}" for k in expected for sign in ("<=", ">")]
    for k in expected:
        few, many = found[f"targets<={k}"], found[f"targets>{k}"]
        assert few["metrics"][f"pap@{k}"] == pytest.approx(few["metrics"][f"pauc@{k}"])
        is_perfect = many["metrics"][f"pap@{k}"] == 1.0
        assert is_perfect == (many["metrics"][f"precision@{k}"] == 1.0)
        assert few["users"] + many["users"] == len(ranks)
        assert many["targets"] == sum(size for size in sizes if size > k)
        assert set(few["metrics"]) == {"map", "mrr"} | {n for n in metrics if n.endswith(f"@{k}")}
        own = metrics["map"][sizes > k]
        assert many["metrics"]["map"] == own.mean()
        low, high = many["intervals"]["map"]
        assert own.min() - 1e-9 <= low <= high <= own.max() + 1e-9
