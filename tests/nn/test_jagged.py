from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ensue.nn.jagged import last_occurrences, row_numbers, take_rows

jagged_rows = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=6)


def offsets_of(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor([0] + [len(row) for row in rows]).cumsum(0)


@given(jagged_rows)
def test_row_numbers_names_the_row_of_every_value(rows: list[list[int]]) -> None:
    expected = [number for number, row in enumerate(rows) for _ in row]
    assert row_numbers(offsets_of(rows)).tolist() == expected


@given(jagged_rows, st.data())
def test_take_rows_gathers_whole_rows(rows: list[list[int]], data: st.DataObject) -> None:
    taken = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    values = torch.tensor([value for row in rows for value in row], dtype=torch.long)
    positions, source = take_rows(offsets_of(rows), torch.tensor(taken, dtype=torch.long))
    assert values[positions].tolist() == [value for row in taken for value in rows[row]]
    assert source.tolist() == [index for index, row in enumerate(taken) for _ in rows[row]]


@given(jagged_rows)
def test_last_occurrences_keeps_one_position_per_row_and_value(rows: list[list[int]]) -> None:
    pairs = [(number, value) for number, row in enumerate(rows) for value in row]
    expected = [
        position for _, position in sorted({pair: i for i, pair in enumerate(pairs)}.items())
    ]
    kept = last_occurrences(
        torch.tensor([row for row, _ in pairs], dtype=torch.long),
        torch.tensor([value for _, value in pairs], dtype=torch.long),
        num_values=6,
    )
    assert kept.tolist() == expected
