"""Diagnostics of distillation: worked numbers, gradients as autograd has them, and expectations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.evaluation.distillation import (
    block_contrast,
    calibration_error,
    confidence_correlation,
    cosine_matrix,
    gradient_ratio,
    rescaling,
    target_entropy,
)
from ensue.losses.distillation import distillation_loss
from ensue.losses.soft_targets import teacher_target

DOUBLE = torch.float64
Z = torch.tensor([[1.0, 0.0, -1.0]], dtype=DOUBLE)
LABEL = torch.tensor([0])


def random_problem(seed: int, num_classes: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    z, v = (3 * torch.randn(8, num_classes, generator=draws, dtype=DOUBLE) for _ in range(2))
    return z, v, torch.randint(0, num_classes, (8,), generator=draws)


def test_worked_numbers() -> None:
    p = torch.tensor([[0.8, 0.15, 0.05]], dtype=DOUBLE)
    for diagnose in (rescaling, gradient_ratio):
        assert diagnose(Z, p, LABEL, teacher_weight=0.5).item() == pytest.approx(
            0.7012776750, abs=1e-10
        )
    warm = teacher_target(torch.tensor([[3.0, 1.0, 0.0]], dtype=DOUBLE), temperature=2.0)
    for diagnose in (rescaling, gradient_ratio):
        omega = diagnose(Z, warm, LABEL, teacher_weight=0.5, temperature=2.0)
        assert omega.item() == pytest.approx(0.5911486413, abs=1e-10)


def test_a_student_above_the_mixed_target_is_pushed_down() -> None:
    z = torch.tensor([[0.95, 0.05]], dtype=DOUBLE).log()
    p = torch.tensor([[0.6, 0.4]], dtype=DOUBLE)
    assert rescaling(z, p, LABEL, teacher_weight=0.5).item() == pytest.approx(-3.0)
    assert gradient_ratio(z, p, LABEL, teacher_weight=0.5).item() == pytest.approx(3.0)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    teacher_weight=st.floats(0, 1),
    temperature=st.floats(0.5, 8),
    scale=st.floats(0.1, 10),
)
def test_formula_is_the_ratio_of_gradients(
    seed: int, teacher_weight: float, temperature: float, scale: float
) -> None:
    z, v, labels = random_problem(seed)
    rho = teacher_target(v, temperature=temperature)
    options = {"teacher_weight": teacher_weight, "temperature": temperature, "scale": scale}
    z.requires_grad_()
    with_teacher = distillation_loss(z, labels, rho, **options)
    without = distillation_loss(z, labels, rho, teacher_weight=0.0)
    gradients = [torch.autograd.grad(loss.sum(), z)[0] for loss in (with_teacher, without)]
    ours, hard = (gradient.gather(1, labels[:, None]).squeeze(1) for gradient in gradients)
    omega = rescaling(z, rho, labels, **options)
    torch.testing.assert_close(omega, ours / hard, rtol=1e-9, atol=1e-10)
    ratio = gradient_ratio(z, rho, labels, **options)
    norms = [gradient.abs().sum(dim=1) for gradient in gradients]
    torch.testing.assert_close(ratio, norms[0] / norms[1], rtol=1e-9, atol=1e-10)
    assert bool((ratio >= omega.abs() - 1e-9).all())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), temperature=st.floats(0.5, 8))
def test_a_teacher_that_is_the_student_leaves_the_hard_part(seed: int, temperature: float) -> None:
    z, _, labels = random_problem(seed)
    rho = teacher_target(z, temperature=temperature)
    omega = rescaling(z, rho, labels, teacher_weight=0.3, temperature=temperature)
    torch.testing.assert_close(omega, torch.full_like(omega, 0.7))


def test_a_surer_teacher_makes_a_heavier_example() -> None:
    p = torch.linspace(0.01, 1.0, 50, dtype=DOUBLE)
    rho = torch.stack([p, (1 - p) / 2, (1 - p) / 2], dim=1)
    omega = rescaling(Z.expand(50, 3), rho, LABEL.expand(50), teacher_weight=0.4)
    assert bool((omega.diff() > 0).all())
    assert omega[-1].item() == pytest.approx(1.0)  # only for p_t = 1


def test_a_student_as_sure_as_its_type_allows() -> None:
    z = torch.tensor([[100.0, 0.0, 0.0]])
    omega = rescaling(z, z.softmax(dim=1), LABEL, teacher_weight=0.5)
    assert omega.isfinite().all()
    ratio = gradient_ratio(z, z.double().softmax(dim=1), LABEL, teacher_weight=0.5)
    assert ratio.item() == pytest.approx(0.5)


def test_expectation_over_a_noisy_teacher() -> None:
    """With p~_t = q~_t + c + noise of mean 0, mean omega is (1 - lam) + lam c / tau / (1 - q_t),
    here with q~ at temperature 2."""
    draws, gap, weight, tau = 100_000, 0.1, 0.6, 2.0
    student = (Z / tau).softmax(dim=1)
    q_t, warm_t = Z.softmax(dim=1)[0, 0].item(), student[0, 0].item()
    noise = 0.2 * (torch.rand(draws, generator=torch.Generator().manual_seed(0)).double() - 0.5)
    rho = torch.zeros(draws, 3, dtype=DOUBLE)
    rho[:, 0] = warm_t + gap + noise
    rho[:, 1:] = (1 - rho[:, :1]) / 2
    omega = rescaling(
        Z.expand(draws, 3), rho, LABEL.expand(draws), teacher_weight=weight, temperature=tau
    )
    expected = (1 - weight) + weight / tau * gap / (1 - q_t)
    error = (omega.std() / math.sqrt(draws)).item()
    assert abs(omega.mean().item() - expected) < 5 * error


def test_contrast_of_planted_blocks() -> None:
    superclasses = torch.tensor([0, 1, 0, 1])
    rows = torch.tensor([[1.0, 0.1], [-1.0, 0.1], [1.0, -0.1], [-1.0, -0.1]])
    cosines = cosine_matrix(rows + 7.0)  # a common vector does not count
    cosine = (1 - 0.01) / (1 + 0.01)
    assert cosines[0, 2].item() == pytest.approx(cosine, abs=1e-6)
    # Across: the same two second coordinates give -cosine, opposite ones -1, two pairs of each.
    assert block_contrast(cosines, superclasses) == pytest.approx(
        cosine + (cosine + 1) / 2, abs=1e-6
    )
    with pytest.raises(ValueError, match=r"two super-classes.*got \[0, 1, 2, 3\]"):
        block_contrast(cosines, torch.arange(4))


def test_entropy() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert target_entropy(targets[:1]) == 0.0
    assert target_entropy(targets) == pytest.approx(math.log(4) / 2)


def test_calibration_by_hand() -> None:
    confidence = torch.tensor([0.6, 0.62, 0.9, 0.95, 1.0], dtype=DOUBLE)
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    labels = torch.tensor([0, 1, 0, 1, 0])
    # Bins of a fifth: {0.6}, {0.62}, {0.9, 0.95, 1.0}.
    expected = (0.4 + 0.62 + abs(2.85 - 2)) / 5
    assert calibration_error(logits, labels, num_bins=5) == pytest.approx(expected)
    assert calibration_error(logits[:1], labels[:1]) == pytest.approx(0.4)


def test_calibrated_predictions_have_little_error() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(50_000, 5, generator=draws, dtype=DOUBLE)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draws).squeeze(1)
    assert calibration_error(logits, labels) < 0.01
    assert calibration_error(4 * logits, labels) > 0.2


def test_correlation_is_of_ranks() -> None:
    p = torch.tensor([0.1, 0.5, 0.7, 0.7])
    assert confidence_correlation(2 * p - 5, p) == pytest.approx(1.0)
    assert confidence_correlation(torch.tensor([3.0, 0.0, -1e20, -1e20]), p) == pytest.approx(-1.0)
    # Ranks 1 2 3.5 3.5 and 2 1 3 4.
    expected = 3.5 / (4.5 * 5) ** 0.5
    some = confidence_correlation(torch.tensor([2.0, 1.0, 3.0, 4.0]), p)
    assert some == pytest.approx(expected, abs=1e-9)
    assert confidence_correlation(torch.ones(4), p) is None
