"""Section (g) of the method: worked numbers, what leaves the loss as it is, gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.losses.longitudinal import (
    best_directions,
    direction_loss,
    masked_error,
    split_codes,
    unit_differences,
)

SECOND = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
FIRST = torch.zeros_like(SECOND)
RAW = torch.tensor([[2.0, 1.0, 2.0]], dtype=torch.float64)


def drawn(seed: int, *sizes: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*sizes, dtype=torch.float64, generator=generator)


def mean_loss(first: Tensor, second: Tensor, raw: Tensor) -> Tensor:
    return direction_loss(unit_differences(first, second), raw / raw.norm()).mean()


def test_worked_numbers() -> None:
    second, raw = SECOND.clone().requires_grad_(), RAW.clone().requires_grad_()
    loss = mean_loss(FIRST, second, raw)
    loss.backward()
    assert loss.item() == pytest.approx(1 / 3)
    assert second.grad is not None
    assert raw.grad is not None
    expected = [[-0.026667, 0.02, -0.066667], [-0.166667, -0.083333, 0.0]]
    torch.testing.assert_close(second.grad, torch.tensor(expected).double(), atol=1e-6, rtol=0)
    expected_raw = torch.tensor([[0.048148, -0.059259, -0.018519]]).double()
    torch.testing.assert_close(raw.grad, expected_raw, atol=1e-6, rtol=0)
    assert (second.grad * SECOND).sum(dim=1).abs().max() < 1e-12  # it only turns
    assert (raw.grad * RAW).sum().abs() < 1e-12


def test_the_best_direction_by_hand() -> None:
    differences = unit_differences(FIRST, SECOND)
    mean = differences.mean(dim=0)
    best = best_directions(mean)
    torch.testing.assert_close(
        best, torch.tensor([[0.424264, 0.565685, 0.707107]]).double(), atol=1e-6, rtol=0
    )
    assert direction_loss(differences, best).mean().item() == pytest.approx(0.292893, abs=1e-6)
    assert 1 - mean.norm().item() == pytest.approx(0.292893, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_what_leaves_the_loss_as_it_is(seed: int, scale: float) -> None:
    first, second, raw = drawn(seed, 5, 3), drawn(seed + 1, 5, 3), drawn(seed + 2, 1, 3)
    loss = mean_loss(first, second, raw)
    longer = first + scale * (second - first)
    torch.testing.assert_close(mean_loss(first, longer, scale * raw), loss)
    torch.testing.assert_close(mean_loss(second, first, raw), 2 - loss)
    turn = torch.linalg.qr(drawn(seed + 3, 3, 3)).Q
    torch.testing.assert_close(mean_loss(first @ turn, second @ turn, raw @ turn), loss)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_no_directions_are_better(seed: int, count: int) -> None:
    differences = unit_differences(torch.zeros(20, 4).double(), drawn(seed, 20, 4) + 0.5)
    mean, moment = differences.mean(dim=0), differences.T @ differences / 20
    best = best_directions(mean, moment, count=count)
    torch.testing.assert_close(best @ best.T, torch.eye(count).double(), atol=1e-9, rtol=0)
    other = torch.linalg.qr(drawn(seed + 1, 4, count)).Q.T
    found, by_chance = (direction_loss(differences, d).mean() for d in (best, other))
    assert found <= by_chance + 1e-12
    assert best[0] @ mean > 0
    assert (best[1:] @ mean).abs().max().item() < 1e-9 if count > 1 else True


def test_equal_codes_have_a_finite_loss_and_no_gradient() -> None:
    codes = torch.ones(2, 3, requires_grad=True)
    loss = direction_loss(unit_differences(codes[:1], codes[1:]), torch.eye(3)[:1]).mean()
    loss.backward()
    assert loss.item() == 1
    assert codes.grad is not None
    assert codes.grad.abs().max() == 0


def test_gradients() -> None:
    first, second = drawn(0, 4, 3).requires_grad_(), drawn(1, 4, 3).requires_grad_()
    directions = torch.linalg.qr(drawn(2, 3, 2)).Q.T.requires_grad_()
    for count in (1, 2):
        assert torch.autograd.gradcheck(
            lambda a, b, d: direction_loss(unit_differences(a, b), d),
            (first, second, directions[:count]),
        )


def test_codes_are_the_sum_of_their_parts() -> None:
    codes, directions = drawn(0, 7, 5), torch.linalg.qr(drawn(1, 5, 2)).Q.T
    along, rest = split_codes(codes, directions)
    torch.testing.assert_close(along @ directions + rest, codes)
    assert (rest @ directions.T).abs().max() < 1e-6


def test_missing_values_have_no_error_and_no_gradient() -> None:
    values = torch.tensor([[1.0, torch.nan, 3.0], [torch.nan, torch.nan, torch.nan]])
    found = torch.zeros(2, 3, requires_grad=True)
    error = masked_error(found, values)
    assert error.tolist() == [5.0, 0.0]
    error.sum().backward()
    assert found.grad is not None
    assert found.grad.tolist() == [[-1.0, 0.0, -3.0], [0.0, 0.0, 0.0]]


def test_shapes_must_belong_together() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(1, 4\)"):
        direction_loss(torch.zeros(2, 3), torch.zeros(1, 4))
