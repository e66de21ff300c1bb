from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.cooccurrence import Incidence, count_common_, map_item_blocks
from tests.contracts.planted import histories_of

NUM_ITEMS = 6
logs = st.lists(st.lists(st.integers(0, NUM_ITEMS), max_size=8), max_size=8)


def test_pairs_of_a_small_log() -> None:
    #                                    user 0 has none; repeats count once
    incidence = Incidence.from_histories(histories_of([[2, 1, 2], [], [3, 2]]), num_items=4)
    assert incidence.user_offsets.tolist() == [0, 0, 2, 2, 4]
    assert incidence.user_items.tolist() == [2, 1, 3, 2]
    assert incidence.item_offsets.tolist() == [0, 0, 1, 3, 4, 4]
    assert incidence.item_users.tolist() == [1, 1, 3, 3]
    assert incidence.item_counts.tolist() == [0, 1, 2, 1, 0]


@settings(deadline=None)
@given(logs)
def test_common_users_equal_the_definition(lists: list[list[int]]) -> None:
    incidence = Incidence.from_histories(histories_of(lists), NUM_ITEMS)
    sets = [set(history) - {0} for history in lists]
    for item in range(1, NUM_ITEMS + 1):
        counts = np.zeros(NUM_ITEMS + 1, np.int32)
        touched = np.zeros(NUM_ITEMS + 1, np.int32)
        n = count_common_(item, incidence, counts, touched)
        expected = [sum({item, other} <= users for users in sets) for other in range(NUM_ITEMS + 1)]
        assert counts.tolist() == expected
        assert sorted(touched[:n].tolist()) == np.flatnonzero(expected).tolist()


def test_a_history_that_ends_early_is_read_to_its_end() -> None:
    whole = histories_of([[1, 2, 3], [4, 5]])
    shorter = type(whole)(whole.items, whole.starts, np.array([0, 2, 4]))
    assert Incidence.from_histories(shorter, 5).user_items.tolist() == [1, 2, 4]


def test_read_only_items_are_accepted() -> None:
    histories = histories_of([[1, 2]])
    histories.items.flags.writeable = False
    assert Incidence.from_histories(histories, 2).item_counts.tolist() == [0, 1, 1]


@pytest.mark.parametrize("num_items", [1, 7, 8, 100, 70_000])
def test_blocks_cover_every_id_once_in_order(num_items: int) -> None:
    blocks = map_item_blocks(lambda first, last: range(first, last), num_items)
    assert [item for block in blocks for item in block] == list(range(num_items + 1))
