from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.errors import UsageError
from ensue.evaluation.profile import intensity
from ensue.evaluation.profile.intensity import sequential_intensity
from tests.contracts.planted import histories_of

logs = st.lists(st.lists(st.integers(1, 3), max_size=9), max_size=12)


def contains(history: Sequence[int], run: Sequence[int]) -> bool:
    return any(
        list(history[i : i + len(run)]) == list(run) for i in range(len(history) - len(run) + 1)
    )


def count_rules(
    lists: Sequence[Sequence[int]], length: int, min_support: int, min_confidence: float
) -> int:
    """Return the number of rules, from the definition: every run that occurs, user by user."""
    runs = {
        tuple(history[i : i + length + 1])
        for history in lists
        for i in range(len(history) - length)
    }
    rules = 0
    for run in runs:
        support = sum(contains(history, run) for history in lists)
        of_x = sum(contains(history, run[:-1]) for history in lists)
        rules += support >= min_support and support / of_x >= min_confidence
    return rules


@settings(deadline=None, max_examples=150)
@given(logs, st.integers(1, 3), st.sampled_from([0.1, 0.5, 2 / 3, 1.0]))
def test_rules_equal_the_definition(
    lists: list[list[int]], min_support: int, min_confidence: float
) -> None:
    found = sequential_intensity(
        histories_of(lists), max_length=4, min_support=min_support, min_confidence=min_confidence
    )
    expected = {
        length: count_rules(lists, length, min_support, min_confidence) for length in (1, 2, 3, 4)
    }
    assert found.rules == expected
    assert found.num_users == sum(map(bool, lists))


def test_by_hand() -> None:
    """Five users have 1 2 3 and five have 1 4: 1 -> 2 and 1 -> 4 have confidence 1/2."""
    found = sequential_intensity(histories_of([[1, 2, 3]] * 5 + [[1, 4]] * 5))
    assert found.rules == {1: 3, 2: 1, 3: 0, 4: 0, 5: 0}  # also 2 -> 3, and 1 2 -> 3
    assert found.value == pytest.approx(4 / 10)
    assert found.to_dict()["by_length"]["1"] == {"rules": 3, "per_user": 0.3}


def test_a_user_counts_once_for_a_run() -> None:
    assert sum(sequential_intensity(histories_of([[1, 2] * 20] * 4)).rules.values()) == 0
    assert sequential_intensity(histories_of([[1, 2] * 20] * 5)).rules[1] == 2


def test_a_run_does_not_go_from_one_user_to_the_next() -> None:
    assert sequential_intensity(histories_of([[1], [2]] * 9)).rules[1] == 0


def test_only_the_given_part_of_a_history_is_read() -> None:
    whole = histories_of([[1, 2, 3]] * 5)
    shorter = type(whole)(whole.items, whole.starts, np.maximum(whole.ends - 1, whole.starts))
    assert sequential_intensity(shorter).rules == {1: 1, 2: 0, 3: 0, 4: 0, 5: 0}


def test_sorting_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    histories = histories_of([rng.integers(1, 8, size=20).tolist() for _ in range(40)])
    expected = sequential_intensity(histories, min_confidence=0.2).rules
    assert expected[1] > 0
    assert expected[2] > 0
    monkeypatch.setattr(intensity, "ROWS_AT_ONCE", 7)
    assert sequential_intensity(histories, min_confidence=0.2).rules == expected


def test_no_users() -> None:
    found = sequential_intensity(histories_of([]))
    assert found.value == 0.0
    assert found.rules == dict.fromkeys(range(1, 6), 0)


@pytest.mark.parametrize("wrong", [{"max_length": 0}, {"min_support": 0}, {"min_confidence": 0.0}])
def test_bounds_without_meaning(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"0 < min_confidence <= 1; got .*\.$"):
        sequential_intensity(histories_of([[1]]), **wrong)
