from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.nn.admission import LARGEST, CountSketch, is_drawn
from ensue.nn.row_sums import group_rows


def add(sketch: CountSketch, ids: list[int]) -> dict[int, int]:
    distinct, codes = group_rows(torch.tensor(ids, dtype=torch.int64))
    counts = sketch.add(distinct, codes.bincount(minlength=len(distinct)))
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(st.lists(st.integers(-20, 20), max_size=30), max_size=6))
def test_counts_are_never_too_small(calls: list[list[int]]) -> None:
    sketch, true = CountSketch(16, seed=0), Counter[int]()
    for ids in calls:
        true.update(ids)
        for key, count in add(sketch, ids).items():
            assert count >= true[key]


def test_counts_are_right_where_there_is_room() -> None:
    sketch = CountSketch(1 << 16, seed=0)
    ids = [n % 100 for n in range(250)]
    assert add(sketch, ids) == Counter(ids)
    assert add(sketch, [3, 3, 1000]) == {3: 5, 1000: 1}


def test_few_counts_are_too_large_with_four_cells_an_id() -> None:
    sketch = CountSketch(1 << 16, seed=1)
    ids = torch.arange(1 << 14)
    ones = torch.ones_like(ids)
    for part in ids.split(512):
        sketch.add(part, ones[: len(part)])
    assert (sketch.add(ids, ones) > 2).float().mean() < 0.1


def test_order_within_a_call_does_not_matter() -> None:
    one, other = CountSketch(16, seed=0), CountSketch(16, seed=0)
    ids, counts = torch.arange(30), torch.arange(30) % 4 + 1
    first = one.add(ids, counts)
    assert torch.equal(first.flip(0), other.add(ids.flip(0), counts.flip(0)))
    assert torch.equal(one.counts, other.counts)


def test_counts_end_at_255_and_fade() -> None:
    sketch = CountSketch(1 << 10, seed=0)
    assert add(sketch, [7] * 300) == {7: LARGEST}
    sketch.halve()
    assert add(sketch, [7]) == {7: 128}


def test_draws() -> None:
    ids = torch.arange(1, 40_001)
    counts = ids % 2 + 1  # ids with two sights, and with one
    drawn = is_drawn(ids, counts, probability=0.3, seed=4, step=9)
    error = 5 * 0.5 / 20_000**0.5
    assert abs(drawn[counts == 1].double().mean() - 0.3) < error
    assert abs(drawn[counts == 2].double().mean() - 0.51) < error
    order = torch.randperm(len(ids))
    again = is_drawn(ids[order], counts[order], probability=0.3, seed=4, step=9)
    assert torch.equal(again, drawn[order])
    later = is_drawn(ids, counts, probability=0.3, seed=4, step=10)
    both = (later & drawn)[counts == 1].double().mean()
    assert abs(both - 0.09) < error
