from __future__ import annotations

import pytest
import torch

from ensue.nn.row_rules import RowRule, update_rows_, update_slabs_
from ensue.nn.slabs import Slabs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise_adagrad", "adam"])
def test_kernels_do_what_tensor_operations_do(name: str, decay: float, dtype: torch.dtype) -> None:
    rule = RowRule(name=name, weight_decay=decay, initial=0.1)
    generator = torch.Generator().manual_seed(0)
    width = 5 + rule.state_width(5)
    slabs = Slabs(width, bits=3, dtype=dtype)
    slabs.reserve(40)
    table = torch.rand(40, width, generator=generator, dtype=dtype)
    slabs.put(torch.arange(40), table)
    for step in range(1, 6):
        rows = torch.randperm(40, generator=generator)[:30]
        grad = torch.randn(30, 5, generator=generator, dtype=dtype)
        grad[::7] = 0
        update_slabs_(slabs, rows, grad, rule, lr=0.1, step=step)
        is_touched = (rows != 0) & (torch.arange(30) % 7 > 0)
        own = table[rows[is_touched]]
        update_rows_(own, grad[is_touched], rule, lr=0.1, step=step)
        table[rows[is_touched]] = own
    torch.testing.assert_close(slabs.take(torch.arange(40)), table)


def test_types_without_kernels() -> None:
    slabs = Slabs(4, bits=1, dtype=torch.bfloat16)
    slabs.reserve(3)
    slabs.put(torch.arange(3), torch.ones(3, 4))
    grad = torch.tensor([[1, 1], [2, 0], [0, 0]], dtype=torch.bfloat16)
    update_slabs_(slabs, torch.arange(3), grad, RowRule(), lr=0.5, step=1)
    after = slabs.take(torch.arange(3)).float()
    assert after[[0, 2]].tolist() == [[1.0] * 4] * 2
    assert after[1].tolist() == pytest.approx([1 - 1 / 5**0.5, 1, 5, 1], rel=0.01)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="initial"):
        RowRule(initial=-1.0)
