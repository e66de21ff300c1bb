from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.losses import full_softmax
from ensue.losses.variational import gaussian_divergence, multinomial_loss

ITEMS = torch.tensor([1, 4, 2, 3, 5, 4])
OFFSETS = torch.tensor([0, 2, 2, 5, 6])
WEIGHTS = torch.tensor([0.5, 7.0, 2.0, 0.0], dtype=torch.float64)


def drawn(*sizes: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(sizes))
    return torch.randn(*sizes, dtype=torch.float64, generator=generator)


def by_definition(queries: Tensor, table: Tensor, bias: Tensor) -> float:
    """The sum over items of -log of the probability, one after the other."""
    total = 0.0
    for bag, weight in enumerate(WEIGHTS.tolist()):
        logits = (table[1:] @ queries[bag] + bias[1:]).tolist()
        normalizer = sum(math.exp(logit) for logit in logits)
        for item in ITEMS[int(OFFSETS[bag]) : int(OFFSETS[bag + 1])].tolist():
            total -= weight * math.log(math.exp(logits[item - 1]) / normalizer)
    return total


def test_two_items_of_three_by_hand() -> None:
    # Logits log 1, log 2, log 1: probabilities 1/4, 1/2, 1/4.
    bias = torch.tensor([9.0, 0.0, math.log(2.0), 0.0])
    loss = multinomial_loss(
        torch.zeros(1, 2),
        torch.ones(4, 2),
        bias,
        torch.tensor([1, 2]),
        torch.tensor([0, 2]),
        weights=torch.ones(1),
    )
    assert loss.item() == pytest.approx(math.log(4) + math.log(2), abs=1e-6)


@pytest.mark.parametrize("block_bytes", [1 << 20, 8])
def test_likelihood_and_gradients(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of whole rows, and in tiles of one item."""
    monkeypatch.setitem(full_softmax.BLOCK_BYTES, "cpu", block_bytes)
    leaves = [drawn(4, 3).requires_grad_(), drawn(6, 3).requires_grad_(), drawn(6).requires_grad_()]
    loss = multinomial_loss(*leaves, ITEMS, OFFSETS, weights=WEIGHTS)
    values = [leaf.detach() for leaf in leaves]
    assert loss.item() == pytest.approx(by_definition(*values), abs=1e-12)
    loss.backward()
    step = 1e-5
    for leaf, value in zip(leaves, values, strict=True):
        flat = value.reshape(-1)
        found = np.empty(len(flat))
        for place in range(len(flat)):
            start = flat[place].item()
            flat[place] = start + step
            higher = by_definition(*values)
            flat[place] = start - step
            found[place] = (higher - by_definition(*values)) / (2 * step)
            flat[place] = start
        np.testing.assert_allclose(leaf.grad.reshape(-1).numpy(), found, rtol=0, atol=1e-8)


def test_divergence_from_the_standard_normal() -> None:
    # KL(N(m, s^2) || N(0, 1)) = -log s + (s^2 + m^2 - 1) / 2, summed over the dimensions.
    mean, deviation = (
        torch.tensor([[1.0, -2.0], [0.0, 0.0]]),
        torch.tensor([[0.5, 3.0], [1.0, 1.0]]),
    )
    expected = -math.log(0.5) + (0.25 + 1 - 1) / 2 - math.log(3) + (9 + 4 - 1) / 2
    found = gaussian_divergence(mean, 2 * deviation.log())
    assert found.tolist() == pytest.approx([expected, 0.0], abs=1e-6)


def test_the_divergence_is_the_mean_of_the_log_ratio() -> None:
    mean, deviation = 0.7, 1.5
    draws = mean + deviation * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    ours = torch.distributions.Normal(mean, deviation).log_prob(draws)
    ratio = (ours - torch.distributions.Normal(0.0, 1.0).log_prob(draws)).mean().item()
    found = gaussian_divergence(torch.tensor([[mean]]), torch.tensor([[2 * math.log(deviation)]]))
    assert found.item() == pytest.approx(ratio, abs=0.01)
