from __future__ import annotations

import math

import pytest
import torch

from ensue.losses.metric import margin_loss, rank_weights


def test_inside_and_outside_the_margin() -> None:
    positive = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    losses = margin_loss(positive, torch.tensor([0.2, 0.9, 1.6]), margin=1.0)
    assert losses.tolist() == pytest.approx([1.3, 0.6, 0.0])
    losses.sum().backward()
    assert positive.grad is not None
    assert positive.grad.tolist() == [1.0, 1.0, 0.0]


def test_rank_weights_by_hand() -> None:
    positive = torch.tensor([0.5, 0.5, 0.0])
    negatives = torch.tensor([[0.2, 0.9, 1.6, 3.0], [2.0, 2.0, 2.0, 2.0], [0.1, 0.1, 0.0, 0.0]])
    is_real = torch.tensor([[True] * 4, [True] * 4, [True, True, True, False]])
    weights = rank_weights(positive, negatives, is_real, margin=1.0, num_items=101)
    # Two of four: rank floor(101 * 2 / 4) = 50. None: 0. Three of three: 101.
    assert weights.tolist() == pytest.approx([math.log(51), 0.0, math.log(102)])


def test_a_user_who_has_every_item_has_no_weight() -> None:
    none = torch.zeros(1, 3, dtype=torch.bool)
    found = rank_weights(torch.zeros(1), torch.zeros(1, 3), none, margin=1.0, num_items=5)
    assert found.tolist() == [0.0]
