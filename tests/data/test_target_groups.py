from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.target_groups import Queries, TargetGroups, find_known, find_repeats
from tests.contracts.planted import histories_of

LISTS = [[7, 3, 9, 4, 1], [2], [], [5, 6]]


def all_of(
    groups: TargetGroups, max_len: int = 50, seed: int = 0
) -> list[tuple[int, list[int], list[int]]]:
    """Return (user, history, targets) of all groups."""
    order = groups.order(np.random.default_rng(seed))
    found = groups.take(np.arange(len(groups)), order, max_len)
    return [
        (
            int(user),
            found.history[found.offsets[n] : found.offsets[n + 1]].tolist(),
            found.targets[found.owners == n].tolist(),
        )
        for n, user in enumerate(found.users)
    ]


def make(kind: str, size: int, *, needs_history: bool = True) -> TargetGroups:
    return TargetGroups(
        histories_of(LISTS),
        9,
        kind=kind,  # type: ignore[arg-type]
        size=size,
        needs_history=needs_history,
    )


def test_events_before_by_hand() -> None:
    assert all_of(make("before", 2)) == [
        (1, [7], [3, 9]),
        (1, [7, 3, 9], [4, 1]),
        (4, [5], [6]),
    ]
    assert all_of(make("before", 3, needs_history=False), max_len=2) == [
        (1, [], [7, 3, 9]),
        (1, [3, 9], [4, 1]),
        (2, [], [2]),
        (4, [], [5, 6]),
    ]


def test_other_items_by_hand() -> None:
    found = all_of(make("others", 3))
    assert [(user, len(history), len(targets)) for user, history, targets in found] == [
        (1, 3, 2),
        (1, 3, 2),
        (1, 4, 1),
        (4, 1, 1),
        (4, 1, 1),
    ]
    for user, history, targets in found:
        assert sorted(history + targets) == sorted(LISTS[user - 1])
    assert all_of(make("others", 3), seed=1) != found


lists = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(lists, st.sampled_from(["before", "others"]), st.integers(1, 5), st.booleans())
def test_each_is_a_target_once_and_in_no_history_of_its_own(
    rows: list[list[int]], kind: str, size: int, needs_history: bool
) -> None:
    groups = TargetGroups(
        histories_of(rows),
        9,
        kind=kind,  # type: ignore[arg-type]
        size=size,
        needs_history=needs_history,
    )
    found = all_of(groups)
    assert sum(len(targets) for _, _, targets in found) == groups.num_targets
    for user, row in enumerate(rows, 1):
        targets = [item for owner, _, own in found if owner == user for item in own]
        if kind == "before":
            assert targets == row[1 if needs_history else 0 :]
        else:
            expected = set(row) if len(set(row)) > 1 or not needs_history else set()
            assert sorted(targets) == sorted(expected)
    for user, history, targets in found:
        assert 1 <= len(targets) <= size
        assert history or not needs_history
        if kind == "others":
            assert {*history} & {*targets} == set()
            assert {*history} | {*targets} == {*rows[user - 1]}


def test_a_short_history_of_many_items() -> None:
    groups = TargetGroups(
        histories_of([list(range(1, 10))]), 9, kind="others", size=1, needs_history=True
    )
    found = all_of(groups, max_len=3)
    assert {len(history) for _, history, _ in found} == {3}
    assert all({*history} & {*targets} == set() for _, history, targets in found)


def test_wrong_negatives_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    data = histories_of([rng.integers(1, 10, 5).tolist() for _ in range(4)])
    offsets, items = data.distinct_items(9)
    queries = Queries(
        users=np.array([3, 1, 1]),
        history=np.zeros(0, np.int64),
        offsets=np.zeros(4, np.int64),
        targets=np.array([4, 4, 2]),
        owners=np.array([0, 2, 2]),
    )
    candidates = rng.integers(1, 10, 12)
    known = find_known(queries, candidates, offsets, items, 9)
    expected = {
        (row, place)
        for row, user in enumerate(queries.users)
        for place, item in enumerate(candidates)
        if item in data[user]
    }
    assert {*zip(*known.tolist(), strict=True)} == expected
    assert (np.diff(known[0]) >= 0).all()
    repeats = find_repeats(queries, candidates, 9)
    expected = {
        (row, place)
        for row, own in ((0, {4}), (2, {4, 2}))
        for place, item in enumerate(candidates)
        if item in own
    }
    assert {*zip(*repeats.tolist(), strict=True)} == expected


@pytest.mark.parametrize("kind", ["before", "others"])
def test_no_group_without_events(kind: str) -> None:
    groups = TargetGroups(histories_of([[]]), 9, kind=kind, size=2, needs_history=True)  # type: ignore[arg-type]
    assert len(groups) == groups.num_targets == 0
