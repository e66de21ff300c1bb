from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.nn.bags import bag_mean, bag_sum

IDS = torch.tensor([3, 1, 3, 0, 2])
OFFSETS = torch.tensor([0, 2, 2, 5])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, -1.0, 3.0])


def by_definition(table: Tensor) -> Tensor:
    rows = []
    for bag in range(3):
        total = torch.zeros(table.shape[1], dtype=table.dtype)
        for place in range(int(OFFSETS[bag]), int(OFFSETS[bag + 1])):
            total = total + WEIGHTS[place].to(table.dtype) * table[IDS[place]]
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_leaf", [True, False])
def test_sums_and_gradients(dtype: torch.dtype, is_leaf: bool) -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 4, dtype=dtype)
    upstream = torch.randn(3, 4, dtype=dtype)
    ours, plain = start.clone().requires_grad_(), start.clone().requires_grad_()
    table = ours if is_leaf else ours * 2
    found = bag_sum(table, IDS, OFFSETS, WEIGHTS.to(dtype))
    expected = by_definition(plain if is_leaf else plain * 2)
    torch.testing.assert_close(found, expected)
    for one in (found, expected):
        (one * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)
    with torch.no_grad():
        torch.testing.assert_close(bag_sum(table, IDS, OFFSETS, WEIGHTS.to(dtype)), expected)


def test_a_leaf_adds_to_its_gradient() -> None:
    table = torch.ones(5, 2, requires_grad=True)
    for _ in range(2):
        bag_sum(table, IDS, OFFSETS, torch.ones(5)).sum().backward()
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == [2.0, 2.0, 2.0, 4.0, 0.0]


def test_means() -> None:
    table = torch.arange(5.0)[:, None].requires_grad_()
    assert bag_mean(table, IDS, OFFSETS).squeeze(1).tolist() == pytest.approx([2.0, 0.0, 5 / 3])
