from __future__ import annotations

import math

import pytest
import torch

from ensue.losses.pairwise import bpr_loss
from ensue.losses.pointwise import negative_loss, positive_loss
from ensue.losses.reduce import masked_mean, masked_sum


@pytest.mark.parametrize("logit", [-3.0, 0.0, 1.9])
def test_values_from_the_definition(logit: float) -> None:
    sigmoid = 1 / (1 + math.exp(-logit))
    s = torch.tensor(logit, dtype=torch.float64)
    assert positive_loss(s).item() == pytest.approx(-math.log(sigmoid), abs=1e-12)
    assert negative_loss(s).item() == pytest.approx(-math.log(1 - sigmoid), abs=1e-12)
    assert bpr_loss(s, torch.zeros_like(s)).item() == pytest.approx(-math.log(sigmoid), abs=1e-12)


def test_extreme_logits_stay_finite_with_gradients() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    (positive_loss(logits) + negative_loss(logits)).sum().backward()
    assert positive_loss(logits).tolist() == [200.0, 0.0]
    assert negative_loss(logits).tolist() == [0.0, 200.0]
    assert logits.grad.tolist() == [-1.0, 1.0]


def test_masked_reductions() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mask = torch.tensor([[True, False], [True, True]])
    assert masked_sum(values, mask).item() == 8
    assert masked_mean(values, mask).item() == pytest.approx(8 / 3)
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0
