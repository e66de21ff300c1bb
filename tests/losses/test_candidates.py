from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ensue.losses.candidates import candidate_bce


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def tables(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of items 1, 2, 3: 0.5, -1, 2 for the first query, -0.5, 1, -2 for the second."""
    table = torch.tensor([[9.0], [1.0], [-2.0], [4.0]], dtype=dtype, requires_grad=True)
    bias = torch.zeros(4, dtype=dtype, requires_grad=True)
    queries = torch.tensor([[0.5], [-0.5]], dtype=dtype, requires_grad=True)
    return queries, table, bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and not
def test_value_and_gradient_by_hand(dtype: torch.dtype) -> None:
    queries, table, bias = tables(dtype)
    candidates = torch.tensor([[1, 2, 3], [0, 3, 0]])  # padding as target and as negative
    terms = {"target": softplus(-0.5), "negatives": [softplus(-1), softplus(2), softplus(-2)]}
    for reduction, expected in (
        ("mean", terms["target"] + sum(terms["negatives"]) / 3),
        ("sum", (terms["target"] + sum(terms["negatives"])) / 2),
    ):
        loss = candidate_bce(queries, table, bias, candidates, num_targets=1, reduction=reduction)
        assert loss.item() == pytest.approx(expected, abs=1e-6)
    table.grad = bias.grad = None
    loss.backward()
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.5, -1, 2, -2)]
    slopes = [(sigmoid[0] - 1) / 2, sigmoid[1] / 2, sigmoid[2] / 2, sigmoid[3] / 2]
    to_bias = torch.tensor([0, slopes[0], slopes[1], slopes[2] + slopes[3]], dtype=dtype)
    torch.testing.assert_close(bias.grad, to_bias)
    to_query = slopes[0] * 1 + slopes[1] * -2 + slopes[2] * 4
    torch.testing.assert_close(queries.grad[0, 0].item(), to_query)
    assert table.grad[0].item() == 0


def test_extreme_logits_stay_finite() -> None:
    queries, table, bias = tables(torch.float32)
    with torch.no_grad():
        queries *= 1000
    loss = candidate_bce(
        queries, table, bias, torch.tensor([[2, 3], [3, 2]]), num_targets=1, reduction="sum"
    )
    loss.backward()
    assert loss.item() == pytest.approx((1000 + 2000 + 2000 + 1000) / 2)
    assert table.grad.isfinite().all()
