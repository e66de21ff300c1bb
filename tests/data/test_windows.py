from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.histories import Histories
from ensue.data.windows import Windows


def make(*histories: list[int]) -> Histories:
    lengths = [0, *(len(history) for history in histories)]
    ends = np.cumsum(lengths)
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return Histories(items, ends - lengths, ends)


def gather(windows: Windows) -> list[tuple[int, list[int], list[int]]]:
    inputs, targets = windows.gather(np.arange(len(windows)))
    rows = zip(windows.users.tolist(), inputs.tolist(), targets.tolist(), strict=True)
    return [(user, list(i), list(t)) for user, i, t in rows]


def test_worked_examples() -> None:
    windows = Windows(make([1, 2, 3, 4, 5, 6, 7, 8, 9]), length=5, num_targets=3)
    assert gather(windows) == [(1, [1, 2, 3, 4, 5], [6, 7, 8]), (1, [2, 3, 4, 5, 6], [7, 8, 9])]
    short = Windows(make([7, 8], [], [8], [1, 2, 3]), length=3, num_targets=2)
    assert gather(short) == [
        (1, [0, 0, 0], [7, 8]),
        (3, [0, 0, 0], [0, 8]),
        (4, [0, 0, 1], [2, 3]),
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=8), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_equal_to_slicing_padded_lists(
    histories: list[list[int]], length: int, num_targets: int
) -> None:
    span = length + num_targets
    expected = []
    for user, history in enumerate(histories, 1):
        padded = [0] * max(span - len(history), 0) + history
        for start in range(len(padded) - span + 1):
            window = padded[start : start + span]
            if history:
                expected.append((user, window[:length], window[length:]))
    windows = Windows(make(*histories), length=length, num_targets=num_targets)
    assert gather(windows) == expected


def test_windows_do_not_read_past_the_end_of_a_shortened_history() -> None:
    whole = make([1, 2, 3, 4, 5, 6], [7, 8, 9])
    train = Histories(whole.items, whole.starts, whole.ends - np.array([0, 2, 1]))
    assert gather(Windows(train, length=2, num_targets=1)) == [
        (1, [1, 2], [3]),
        (1, [2, 3], [4]),
        (2, [0, 7], [8]),
    ]
