"""The distillation loss: worked numbers, gradients, limits, and three forms that agree."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.losses.distillation import distillation_loss, topk_distillation_loss
from ensue.losses.reduce import masked_mean
from ensue.losses.soft_targets import TopKTarget, teacher_target, topk_target, uniform_target

DOUBLE = torch.float64
Z = torch.tensor([[1.0, 0.0, -1.0]], dtype=DOUBLE)
P = torch.tensor([[0.8, 0.15, 0.05]], dtype=DOUBLE)
LABEL = torch.tensor([0])


def with_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


def random_problem(seed: int, shape: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits and labels."""
    draws = torch.Generator().manual_seed(seed)
    z, v = (3 * torch.randn(shape, generator=draws, dtype=DOUBLE) for _ in range(2))
    return z, v, torch.randint(0, shape[1], shape[:1], generator=draws)


def test_worked_numbers_at_temperature_1() -> None:
    def loss(teacher_weight: float, target: Tensor = P) -> Callable[[Tensor], Tensor]:
        return lambda z: distillation_loss(z, LABEL, target, teacher_weight=teacher_weight)

    hard, to_hard = with_gradient(loss(0.0), Z)
    assert hard.item() == pytest.approx(0.4076059644, abs=1e-10)
    assert to_hard[0].tolist() == pytest.approx([-0.334759, 0.244728, 0.090031], abs=1e-6)
    assert to_hard.abs().sum().item() == pytest.approx(0.6695180885, abs=1e-10)
    assert loss(1.0)(Z).item() == pytest.approx(0.6576059644, abs=1e-10)
    divergence = loss(1.0)(Z) + (P * P.log()).sum()
    assert divergence.item() == pytest.approx(0.0447365120, abs=1e-10)
    value, gradient = with_gradient(loss(0.5), Z)
    assert value.item() == pytest.approx(0.5326059644, abs=1e-10)
    assert gradient[0].tolist() == pytest.approx([-0.234759, 0.169728, 0.065031], abs=1e-6)
    assert gradient.abs().sum().item() == pytest.approx(0.4695180885, abs=1e-10)
    smoothed = loss(0.1, uniform_target(Z))(Z)
    assert smoothed.item() == pytest.approx(0.5076059644, abs=1e-10)


def test_worked_numbers_at_temperature_2() -> None:
    target = teacher_target(torch.tensor([[3.0, 1.0, 0.0]], dtype=DOUBLE), temperature=2.0)
    assert target[0].tolist() == pytest.approx([0.628532, 0.231224, 0.140244], abs=1e-6)

    def gradient(teacher_weight: float, scale: float) -> list[float]:
        settings = {"teacher_weight": teacher_weight, "temperature": 2.0, "scale": scale}
        return with_gradient(lambda z: distillation_loss(z, LABEL, target, **settings), Z)[1][0]

    value = distillation_loss(Z, LABEL, target, teacher_weight=1.0, temperature=2.0)
    assert value.item() == pytest.approx(0.9361260026, abs=1e-10)
    for settings_, expected in (
        ((1.0, 1.0), [-0.061026, 0.037986, 0.023040]),
        ((1.0, 4.0), [-0.244103, 0.151944, 0.092159]),
        ((0.5, 1.0), [-0.197892, 0.141357, 0.056535]),
    ):
        assert gradient(*settings_).tolist() == pytest.approx(expected, abs=1e-6)


def test_worked_numbers_of_the_closed_form() -> None:
    p = torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04]], dtype=DOUBLE)
    z = torch.tensor([[1.0, 0.5, 0.0, -0.5, -1.0]], dtype=DOUBLE)
    assert z.logsumexp(dim=1).item() == pytest.approx(1.8471016458, abs=1e-10)
    target = topk_target(p.log(), 2)
    losses = (
        lambda z: topk_distillation_loss(z, LABEL, target, teacher_weight=1.0),
        lambda z: distillation_loss(z, LABEL, target.dense(5), teacher_weight=1.0),
    )
    for loss in losses:
        value, gradient = with_gradient(loss, z)
        assert value.item() == pytest.approx(1.2471016458, abs=1e-10)
        expected = [-0.171344, 0.059993, 0.091027, 0.028979, -0.008654]
        assert gradient[0].tolist() == pytest.approx(expected, abs=1e-6)
    full = distillation_loss(z, LABEL, p, teacher_weight=1.0)
    assert full.item() == pytest.approx(1.2171016458, abs=1e-10)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), teacher_weight=st.floats(0, 1))
def test_at_temperature_1_it_is_cross_entropy_with_the_mixed_target(
    seed: int, teacher_weight: float
) -> None:
    z, v, labels = random_problem(seed)
    rho = teacher_target(v)
    mixed = (1 - teacher_weight) * F.one_hot(labels, 7) + teacher_weight * rho
    ours = distillation_loss(z, labels, rho, teacher_weight=teacher_weight)
    torch.testing.assert_close(ours, F.cross_entropy(z, mixed, reduction="none"))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), smoothing=st.floats(0, 1))
def test_limits_are_hard_labels_and_label_smoothing(seed: int, smoothing: float) -> None:
    z, v, labels = random_problem(seed)
    nan = torch.full_like(v, torch.nan)
    unused = distillation_loss(z, labels, nan, teacher_weight=0.0, temperature=3.0)
    torch.testing.assert_close(unused, F.cross_entropy(z, labels, reduction="none"))
    torch.testing.assert_close(
        distillation_loss(z, labels, uniform_target(v), teacher_weight=smoothing),
        F.cross_entropy(z, labels, reduction="none", label_smoothing=smoothing),
    )


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.5, 8),
    k=st.integers(1, 7),
    offset=st.floats(-40, 40),
)
def test_gradient_and_shift(seed: int, temperature: float, k: int, offset: float) -> None:
    """Gradients are those of the equation, sum to 0, and a constant added to logits does nothing;
    a teacher that agrees with the student leaves (1 - lam) of the hard gradient."""
    z, v, labels = random_problem(seed)
    given = {"teacher_weight": 0.6, "temperature": temperature, "scale": 1.7}
    target = topk_target(v, k, temperature=temperature)
    hard = z.softmax(dim=1) - F.one_hot(labels, 7)
    same = teacher_target(z, temperature=temperature)

    def expected(rho: Tensor) -> Tensor:
        return 0.4 * hard + 0.6 * 1.7 / temperature * ((z / temperature).softmax(dim=1) - rho)

    for loss, rho in (
        (lambda z: distillation_loss(z, labels, target.dense(7), **given), target.dense(7)),
        (lambda z: topk_distillation_loss(z, labels, target, **given), target.dense(7)),
        (lambda z: distillation_loss(z, labels, same, **given), None),
    ):
        value, gradient = with_gradient(loss, z)
        wanted = 0.4 * hard if rho is None else expected(rho)
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
        assert gradient.sum(dim=1).abs().max() < 1e-12
        moved, to_moved = with_gradient(loss, z + offset)
        torch.testing.assert_close(moved, value, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(to_moved, gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_finite_differences(temperature: float) -> None:
    z, v, labels = random_problem(0)
    target = topk_target(v, 3)
    given = {"teacher_weight": 0.7, "temperature": temperature, "scale": 2.0}
    z.requires_grad_()
    for loss, rho in ((distillation_loss, target.dense(7)), (topk_distillation_loss, target)):
        assert torch.autograd.gradcheck(lambda z: loss(z, labels, rho, **given), (z,))  # noqa: B023


def test_a_high_temperature_matches_centered_logits() -> None:
    z, v, labels = random_problem(1, (4, 9))
    tau = 1e3
    rho = teacher_target(v, temperature=tau)
    given = {"teacher_weight": 1.0, "temperature": tau, "scale": tau**2}
    _, gradient = with_gradient(lambda z: distillation_loss(z, labels, rho, **given), z)
    limit = (z - z.mean(dim=1, keepdim=True) - v + v.mean(dim=1, keepdim=True)) / 9
    assert ((gradient - limit).norm() / limit.norm()).item() < 1e-2


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    num_classes=st.integers(2, 10_000),
    share=st.floats(0, 1),
    temperature=st.sampled_from([1.0, 2.5]),
)
def test_closed_form_is_the_dense_form(
    seed: int, num_classes: int, share: float, temperature: float
) -> None:
    z, v, labels = random_problem(seed, (3, num_classes))
    k = max(1, round(share * num_classes))
    target = topk_target(v, k, temperature=temperature)
    given = {"teacher_weight": 0.8, "temperature": temperature, "scale": temperature}
    dense = with_gradient(
        lambda z: distillation_loss(z, labels, target.dense(num_classes), **given), z
    )
    compact = with_gradient(lambda z: topk_distillation_loss(z, labels, target, **given), z)
    for ours, expected in zip(compact, dense, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)


def test_equal_teachers_of_both_forms_keep_all_classes() -> None:
    z, v, labels = random_problem(4)
    kept = topk_distillation_loss(z, labels, topk_target(v, 7), teacher_weight=0.9)
    torch.testing.assert_close(
        kept, distillation_loss(z, labels, teacher_target(v), teacher_weight=0.9)
    )


def test_extreme_logits_in_float32() -> None:
    z = torch.tensor([[300.0, -300.0, 0.0]])
    target = topk_target(torch.tensor([[-300.0, 300.0, 0.0]]), 1)
    losses = (
        lambda z: distillation_loss(z, LABEL, target.dense(3), teacher_weight=0.5),
        lambda z: topk_distillation_loss(z, LABEL, target, teacher_weight=0.5),
    )
    for loss in losses:
        value, gradient = with_gradient(loss, z)
        assert value.item() == pytest.approx(300.0)
        assert gradient[0].tolist() == pytest.approx([0.5, -0.5, 0.0], abs=1e-6)


def test_the_mean_is_over_valid_examples() -> None:
    z, v, labels = random_problem(2)
    mask = torch.tensor([True, False, True, True, False])
    given = {"teacher_weight": 0.5, "temperature": 2.0}
    target = topk_target(v, 2)
    for loss, rho in ((distillation_loss, target.dense(7)), (topk_distillation_loss, target)):
        each = loss(z, labels, rho, **given)
        assert each.shape == (5,)
        mean = masked_mean(each, mask)
        assert mean.item() == pytest.approx(each[mask].mean().item())


def test_any_leading_dimensions() -> None:
    z, v, labels = random_problem(5, (6, 4))
    rho = teacher_target(v)
    folded = distillation_loss(
        z.view(2, 3, 4), labels.view(2, 3), rho.view(2, 3, 4), teacher_weight=0.5
    )
    expected = distillation_loss(z, labels, rho, teacher_weight=0.5)
    torch.testing.assert_close(folded.flatten(), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher_weight": 1.5}, r"0 <= teacher_weight <= 1; got 1\.5"),
        ({"teacher_weight": math.nan}, "teacher_weight <= 1; got nan"),
        ({"teacher_weight": 0.5, "temperature": 0.0}, r"temperature > 0; got 0\.0"),
        ({"teacher_weight": 0.5, "scale": -1.0}, r"scale > 0; got -1\.0"),
    ],
)
def test_settings_out_of_range(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distillation_loss(Z, LABEL, P, **given)
    with pytest.raises(ValueError, match=message):
        topk_distillation_loss(Z, LABEL, topk_target(P, 1), **given)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 3\), \(1, 2\) and \(1,\)"):
        distillation_loss(Z, LABEL, P[:, :2], teacher_weight=0.5)
    bad = TopKTarget(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(ValueError, match=r"got \(2, 1\), \(2, 1\), \(2,\) and \(1,\)"):
        topk_distillation_loss(Z, LABEL, bad, teacher_weight=0.5)
