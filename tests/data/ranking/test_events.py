"""Histories of rows, against a plain search of all rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.ranking.events import find_histories

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 4), st.integers(0, 6), st.booleans(), st.integers(0, 2)
    ),
    max_size=25,
)


def plain_history(rows: list[tuple[int, int, int, bool, int]], row: int, most: int) -> list[int]:
    user, _, time, _, part = rows[row]
    if user == 0:
        return []
    events = [
        (other[2], number, other[1])
        for number, other in enumerate(rows)
        if other[0] == user and other[1] > 0 and other[3] and other[2] < time and other[4] <= part
    ]
    events.sort(key=lambda event: event[0])
    items = [item for _, _, item in events]
    return items[len(items) - min(most, len(items)) :]


@settings(deadline=None)
@given(ROWS, st.integers(0, 4), st.booleans())
def test_what_was_strictly_earlier(
    rows: list[tuple[int, int, int, bool, int]], most: int, by_time: bool
) -> None:
    # Parts follow each other in time, as those of a split by time do, or as files say.
    rows = sorted(rows, key=lambda row: (row[4], row[2]))
    if by_time:
        times = sorted(row[2] for row in rows)
        rows = [(*row[:2], time, *row[3:]) for row, time in zip(rows, times, strict=True)]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    views = find_histories(
        np.array(columns[0], dtype=np.int32),
        np.array(columns[1], dtype=np.int32),
        np.array(columns[2], dtype=np.int64),
        np.array(columns[3], dtype=np.bool_),
        np.array(columns[4], dtype=np.uint8),
        most,
    )
    for row in range(len(rows)):
        first = views.ends[row] - views.lengths[row]
        found = views.values[first : views.ends[row]].tolist()
        assert found == plain_history(rows, row, most)


def test_a_view_for_each_row_and_no_copies() -> None:
    """A thousand rows of one user share one array of their items."""
    times = np.arange(1000)
    ones = np.ones(1000, dtype=np.int32)
    views = find_histories(ones, ones, times, ones > 0, np.zeros(1000, dtype=np.uint8), 50)
    assert len(views.values) == 1000
    assert views.lengths.tolist() == [min(row, 50) for row in range(1000)]
