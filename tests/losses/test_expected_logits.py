from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.losses import expected_logits as module
from ensue.losses.expected_logits import expected_logits

NUM_ITEMS = 9


def problem(with_bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    torch.manual_seed(0)
    queries = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    table = torch.randn(NUM_ITEMS + 1, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(NUM_ITEMS + 1, dtype=torch.float64, requires_grad=True)
    rho = torch.softmax(torch.randn(7, NUM_ITEMS, dtype=torch.float64), dim=1)
    weights = torch.rand(7, dtype=torch.float64)
    return queries, table, bias if with_bias else None, rho, weights


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("block_bytes", [8 * NUM_ITEMS, 8 * NUM_ITEMS * 3, 1 << 20])
def test_equals_the_dense_definition(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, with_bias: bool
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": block_bytes})
    queries, table, bias, rho, weights = problem(with_bias)

    def fill(rows: slice, out: Tensor) -> None:
        out.copy_(rho[rows])

    found = expected_logits(queries, table, fill, weights=weights, bias=bias)
    leaves = [queries, table, *([bias] if bias is not None else [])]
    gradients = torch.autograd.grad(3 * found, leaves)
    logits = queries @ table[1:].T + (0 if bias is None else bias[1:])
    expected = (weights[:, None] * rho * logits).sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(3 * expected, leaves))
    assert gradients[1][0].tolist() == [0] * 4  # padding


def test_no_position_gives_zero() -> None:
    table = torch.randn(4, 3, requires_grad=True)

    def fill(rows: slice, out: Tensor) -> None:
        raise AssertionError("nothing to fill")

    found = expected_logits(torch.zeros(0, 3), table, fill, weights=torch.zeros(0))
    assert found.item() == 0
    found.backward()
    assert table.grad is not None
    assert table.grad.abs().sum() == 0
