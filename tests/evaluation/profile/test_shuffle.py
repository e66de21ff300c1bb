from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ensue.evaluation.profile import shuffle
from ensue.evaluation.profile.shuffle import shuffle_histories
from tests.contracts.planted import histories_of

LISTS = [[1, 2, 2, 5], [], [7], [3, 4, 6, 8, 9, 1, 2]]


def test_every_history_keeps_its_items() -> None:
    found = shuffle_histories(histories_of(LISTS), np.random.default_rng(0))
    for user, history in enumerate(LISTS, start=1):
        assert sorted(found[user].tolist()) == sorted(history)


def test_every_order_is_equally_likely() -> None:
    found = shuffle_histories(histories_of([[1, 2, 3]] * 6000), np.random.default_rng(0))
    times = Counter(tuple(found[user].tolist()) for user in range(1, 6001))
    assert len(times) == 6
    assert sum((n - 1000) ** 2 / 1000 for n in times.values()) < 20.5  # chi-square, p = 0.001


def test_only_the_given_part_of_a_history_is_permuted() -> None:
    whole = histories_of([[1, 2, 3], [4, 5, 6]])
    shorter = type(whole)(whole.items, whole.starts, whole.ends - np.array([0, 1, 1]))
    found = shuffle_histories(shorter, np.random.default_rng(0))
    assert [sorted(found[user].tolist()) for user in (1, 2)] == [[1, 2], [4, 5]]


def test_working_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = shuffle_histories(histories_of(LISTS), np.random.default_rng(3)).items.tolist()
    monkeypatch.setattr(shuffle, "COUNT_ROWS", 2)
    found = shuffle_histories(histories_of(LISTS), np.random.default_rng(3)).items.tolist()
    assert found == expected
