from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ensue.losses.gbce import gbce_beta, gbce_loss


@pytest.mark.parametrize("calibration", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("logit", [-3.0, 0.0, 2.5])
def test_value_from_the_powers_of_the_paper(logit: float, calibration: float) -> None:
    num_negatives, num_items = 4, 101
    rate = num_negatives / (num_items - 1)
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)  # equation 9 of the paper
    assert gbce_beta(num_negatives, num_items, calibration) == pytest.approx(beta)
    negatives = torch.tensor([[-1.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    positive = torch.tensor([logit], dtype=torch.float64)
    expected = -math.log((1 / (1 + math.exp(-logit))) ** beta)
    expected -= sum(math.log(1 - 1 / (1 + math.exp(-x))) for x in negatives[0].tolist())
    loss = gbce_loss(positive, negatives, beta=beta)
    assert loss.item() == pytest.approx(expected / 5, abs=1e-12)


def test_without_calibration_it_is_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    positive, negatives = torch.randn(7), torch.randn(7, 3)
    assert gbce_beta(3, 50, 0.0) == 1
    logits = torch.cat([positive[:, None], negatives], dim=1)
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1
    expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
    torch.testing.assert_close(gbce_loss(positive, negatives, beta=1.0), expected)


def test_calibrated_probabilities_are_recovered() -> None:
    """With t = 1 the best logit of an item is that of its true probability, though only a share
    of the negatives is seen: the claim of the paper's theorem."""
    share, num_negatives, num_items = 0.3, 2, 9
    rate = num_negatives / (num_items - 1)
    logits = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    beta = gbce_beta(num_negatives, num_items, 1.0)
    expected_loss = share * beta * F.softplus(-logits) + (1 - share) * rate * F.softplus(logits)
    best = logits[expected_loss.argmin()]
    assert torch.sigmoid(best).item() == pytest.approx(share, abs=1e-3)


def test_extreme_logits_stay_finite_with_gradients() -> None:
    positive = torch.tensor([-80.0], requires_grad=True)
    gbce_loss(positive, torch.tensor([[80.0]]), beta=0.5).sum().backward()
    assert positive.grad.item() == pytest.approx(-0.25)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"0 <= calibration <= 1; got 1\.5"):
        gbce_beta(1, 10, 1.5)
    with pytest.raises(ValueError, match=r"got \(3,\) and \(4, 2\)"):
        gbce_loss(torch.zeros(3), torch.zeros(4, 2), beta=1.0)
