from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ensue.audit.inner_steps import Adam, GradientDescent

OPTIMIZERS = [GradientDescent(0.05, 0.1), Adam(0.05, 0.1), Adam(0.5, betas=(0.8, 0.9), eps=1e-3)]


def random_state(optimizer: Any, size: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, size, generator=generator, dtype=dtype)
    state = [values[0], values[1], values[2].square()]
    return state[: 1 + optimizer.num_moments]


@pytest.mark.parametrize("index", [0, 9])
def test_adam_steps_as_in_pytorch(index: int) -> None:
    state = random_state(Adam(0.05), 7, torch.float64)
    gradient = torch.linspace(-1, 1, 7, dtype=torch.float64)
    after = [torch.empty_like(part) for part in state]
    Adam(0.05, 0.1).step(index, state, gradient, after)
    weight = state[0].clone().requires_grad_()
    weight.grad = gradient.clone()
    theirs = torch.optim.Adam([weight], lr=0.05, weight_decay=0.1)
    theirs.state[weight] = {
        "step": torch.tensor(float(index)),
        "exp_avg": state[1].clone(),
        "exp_avg_sq": state[2].clone(),
    }
    theirs.step()
    torch.testing.assert_close(after[0], weight.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(after[1], theirs.state[weight]["exp_avg"], rtol=0, atol=1e-14)
    torch.testing.assert_close(after[2], theirs.state[weight]["exp_avg_sq"], rtol=0, atol=1e-14)


def differentiable_step(optimizer: Any, index: int, state: list[Tensor], gradient: Tensor) -> Any:
    """Return the state after the step by the textbook's formulas."""
    g = gradient + optimizer.weight_decay * state[0]
    if not optimizer.num_moments:
        return [state[0] - optimizer.lr * g]
    first, second = optimizer.betas
    mean, square = first * state[1] + (1 - first) * g, second * state[2] + (1 - second) * g * g
    corrected = mean / (1 - first ** (index + 1)), square / (1 - second ** (index + 1))
    step = optimizer.lr * corrected[0] / (corrected[1].sqrt() + optimizer.eps)
    return [state[0] - step, mean, square]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["gd", "adam", "adam, other settings"])
@pytest.mark.parametrize("index", [0, 3])
def test_reverse_rules_against_autograd(optimizer: Any, index: int) -> None:
    state = [part.requires_grad_() for part in random_state(optimizer, 9, torch.float64)]
    gradient = torch.linspace(-2, 1, 9, dtype=torch.float64).requires_grad_()
    after = differentiable_step(optimizer, index, state, gradient)
    adjoint = [torch.cos(torch.arange(9.0).double() + i) for i in range(len(after))]
    *expected, direction = torch.autograd.grad(after, [*state, gradient], grad_outputs=adjoint)
    found = torch.empty_like(direction)
    with torch.no_grad():
        optimizer.pull_back(index, state[0], gradient, after, adjoint, found)
    # What is missing in the adjoint is nothing here: the gradient is no function of the state.
    for ours, theirs in zip([*adjoint, found], [*expected, direction], strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-12, atol=1e-12)


def test_no_square_passes_nothing_on() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    adjoint = [torch.ones(2, dtype=torch.float64) for _ in range(3)]
    direction = torch.empty(2, dtype=torch.float64)
    Adam(0.05).pull_back(0, zero, zero, [zero, zero, zero], adjoint, direction)
    assert torch.isfinite(torch.stack([*adjoint, direction])).all()
    assert adjoint[2].tolist() == pytest.approx([0.999, 0.999])


def test_compiled_passes_equal_the_tensor_operations() -> None:
    optimizer = Adam(0.05, 0.1)
    results = []
    for dtype in (torch.float32, torch.float64):
        state = [part.to(dtype) for part in random_state(optimizer, 1000, torch.float32)]
        gradient = torch.linspace(-2, 1, 1000).to(dtype)
        state[0][:3] = state[1][:3] = state[2][:3] = gradient[:3] = 0
        after = [torch.empty_like(part) for part in state]
        optimizer.step(4, state, gradient, after)
        adjoint = [torch.cos(torch.arange(1000.0).to(dtype) + i) for i in range(3)]
        direction = torch.empty_like(gradient)
        optimizer.pull_back(4, state[0], gradient, after, adjoint, direction)
        results.append(torch.stack([*after, *adjoint, direction]).double())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
