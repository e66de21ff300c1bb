from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from ensue.optim.lazy_adam import LazyAdam


def test_equals_adam_where_every_row_has_a_gradient() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    lazy, dense = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimizers = [
        LazyAdam([lazy], lr=0.05, weight_decay=0.1),
        torch.optim.Adam([dense], lr=0.05, weight_decay=0.1),
    ]
    for _ in range(20):
        grad = torch.randn(5, 3)
        lazy.grad, dense.grad = grad.clone(), grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(lazy, dense)


def test_rows_without_gradient_are_left_alone() -> None:
    table = torch.ones(4, 2, requires_grad=True)
    bias = torch.ones(4, requires_grad=True)
    optimizer = LazyAdam([table, bias], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        table.grad, bias.grad = torch.zeros(4, 2), torch.zeros(4)
        table.grad[1] = 1.0
        bias.grad[2] = 1.0
        optimizer.step()
    assert (table[[0, 2, 3]] == 1).all()
    assert (table[1] < 0.8).all()
    assert bias.tolist()[:2] == [1.0, 1.0]
    assert bias[2] < 0.8


def test_finds_the_minimum_of_a_parabola() -> None:
    x = torch.tensor([3.0, -2.0], requires_grad=True)
    optimizer = LazyAdam([x], lr=0.1)
    for _ in range(300):
        x.grad = 2 * (x.detach() - torch.tensor([1.0, 1.0]))
        optimizer.step()
    torch.testing.assert_close(x.detach(), torch.ones(2), atol=1e-2, rtol=0)


def test_state_survives_a_round_trip() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    optimizer = LazyAdam([x])
    x.grad = torch.ones(3, 2)
    optimizer.step()
    y = x.detach().clone().requires_grad_()
    other = LazyAdam([y])
    other.load_state_dict(deepcopy(optimizer.state_dict()))  # loading shares the tensors
    for parameter, current in ((x, optimizer), (y, other)):
        parameter.grad = torch.full((3, 2), 2.0)
        current.step()
    assert torch.equal(x, y)


def test_wrong_learning_rate() -> None:
    with pytest.raises(ValueError, match=r"lr > 0; got 0\.0"):
        LazyAdam([torch.zeros(1, requires_grad=True)], lr=0.0)
