from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from ensue.optim.adagrad import Adagrad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("decay", "initial"), [(0.0, 0.0), (0.1, 0.5)])
def test_equals_that_of_torch(dtype: torch.dtype, decay: float, initial: float) -> None:
    torch.manual_seed(0)
    start = [
        torch.randn(5, 3, dtype=dtype),
        torch.randn(4, dtype=dtype),
        torch.randn(2, 3, 2).to(dtype),
    ]
    ours = [tensor.clone().requires_grad_() for tensor in start]
    theirs = [tensor.clone().requires_grad_() for tensor in start]
    optimizers = [
        Adagrad(ours, lr=0.05, weight_decay=decay, initial=initial),
        torch.optim.Adagrad(theirs, lr=0.05, weight_decay=decay, initial_accumulator_value=initial),
    ]
    for step in range(20):
        for one, other in zip(ours, theirs, strict=True):
            grad = torch.randn_like(one)
            if decay == 0:
                grad[step % len(grad)] = 0  # rows without a gradient, now and then
            one.grad, other.grad = grad.clone(), grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_without_gradient_are_left_alone() -> None:
    for decay in (0.0, 0.5):
        table = torch.ones(4, 2, requires_grad=True)
        optimizer = Adagrad([table], lr=0.1, weight_decay=decay)
        for _ in range(3):
            table.grad = torch.zeros(4, 2)
            table.grad[1] = 1.0
            optimizer.step()
        assert (table[[0, 2, 3]] == 1).all()
        assert (table[1] < 0.9).all()
        assert (optimizer.state[table]["sum"][[0, 2, 3]] == 0).all()


def test_finds_the_minimum_of_a_parabola() -> None:
    x = torch.tensor([3.0, -2.0], requires_grad=True)
    optimizer = Adagrad([x], lr=1.0)
    for _ in range(300):
        x.grad = 2 * (x.detach() - torch.tensor([1.0, 1.0]))
        optimizer.step()
    torch.testing.assert_close(x.detach(), torch.ones(2), atol=1e-2, rtol=0)


def test_state_survives_a_round_trip() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    optimizer = Adagrad([x])
    x.grad = torch.ones(3, 2)
    optimizer.step()
    y = x.detach().clone().requires_grad_()
    other = Adagrad([y])
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for parameter, current in ((x, optimizer), (y, other)):
        parameter.grad = torch.full((3, 2), 2.0)
        current.step()
    assert torch.equal(x, y)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match=r"lr > 0; got 0\.0"):
        Adagrad([torch.zeros(1, requires_grad=True)], lr=0.0)
    with pytest.raises(ValueError, match=r"initial >= 0; got -1\.0"):
        Adagrad([torch.zeros(1, requires_grad=True)], initial=-1.0)
