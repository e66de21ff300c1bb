from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.nn.row_sums import group_rows, group_rows_by_sorting, row_sums

INT64 = st.integers(-(2**63), 2**63 - 1)


def in_order(rows: list[int]) -> list[int]:
    return list(dict.fromkeys(rows))


@settings(max_examples=60, deadline=None)
@given(st.lists(INT64 | st.integers(-3, 3), max_size=40))
def test_groups_by_both_ways(rows: list[int]) -> None:
    given_rows = torch.tensor(rows, dtype=torch.int64)
    for group in (group_rows, group_rows_by_sorting):
        distinct, groups = group(given_rows)
        assert distinct.tolist() == in_order(rows)
        assert [distinct[g].item() for g in groups] == rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
def test_sums_by_definition(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 50, (300,), generator=generator) * 2**40 - 7
    values = torch.randint(-8, 8, (300, *shape), generator=generator).to(dtype)  # sums are exact
    distinct, sums = row_sums(rows, values)
    assert distinct.tolist() == in_order(rows.tolist())
    assert sums.dtype == dtype
    for row, total in zip(distinct, sums, strict=True):
        assert torch.equal(total, values[rows == row].sum(0))


def test_sums_add_in_the_order_of_the_look_ups() -> None:
    values = torch.tensor([1e8, 1.0, -1e8])  # 1 is lost beside 1e8, but not behind -1e8
    rows = torch.tensor([4, 4, 4])
    assert row_sums(rows, values)[1].item() == 0.0
    assert row_sums(rows, values[[0, 2, 1]])[1].item() == 1.0


def test_many_rows_of_one_pattern() -> None:
    """Rows that are multiples of a power of two must not fall into one slot."""
    rows = torch.arange(20_000) << 44
    distinct, sums = row_sums(rows.repeat(2), torch.ones(40_000, 1))
    assert torch.equal(distinct, rows)
    assert (sums == 2).all()


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(0, 3)])
def test_no_rows(values: Tensor) -> None:
    distinct, sums = row_sums(torch.zeros(0, dtype=torch.int64), values)
    assert distinct.shape == (0,)
    assert sums.shape == values.shape


def test_strided_values() -> None:
    values = torch.arange(12.0).view(3, 4).T
    assert row_sums(torch.tensor([1, 1, 0, 1]), values)[1].tolist() == [[4, 16, 28], [2, 6, 10]]


def test_wrong_shapes() -> None:
    with pytest.raises(
        ValueError, match=r"rows \[N\] and values \[N, D\]; got \(2,\) and \(3, 1\)"
    ):
        row_sums(torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1))


@pytest.mark.gpu
def test_same_on_the_gpu() -> None:
    rows = torch.randint(0, 1000, (5000,))
    values = torch.randint(-8, 8, (5000, 3)).float()
    for ours, theirs in zip(
        row_sums(rows, values), row_sums(rows.cuda(), values.cuda()), strict=True
    ):
        assert torch.equal(ours, theirs.cpu())
