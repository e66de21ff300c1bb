"""Training side by side is training each alone on the loss of its lesson."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.errors import RunError
from ensue.losses.distillation import distillation_loss
from ensue.losses.soft_targets import teacher_target
from ensue.models.classifier import ClassifierConfig, Classifiers
from ensue.training.classifier import FitConfig, Lesson, fit_classifiers, predict

NUM, DIM, CLASSES = 60, 5, 4
FIT = FitConfig(epochs=4, batch_size=16, learning_rate=0.05, weight_decay=0.01)


def data() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(NUM, DIM)
    return x, (x @ torch.randn(DIM, CLASSES)).argmax(dim=1), torch.randn(NUM, CLASSES)


def lessons(teacher: Tensor) -> list[Lesson]:
    return [
        Lesson(teacher_target(teacher), 0.0),
        Lesson(teacher_target(teacher), 0.9),
        Lesson(teacher_target(teacher, temperature=2.0), 0.7, temperature=2.0, scale=4.0),
        Lesson(teacher_target(teacher), 0.5, temperature=1.0, scale=3.0),
        Lesson(teacher_target(teacher, temperature=5.0), 1.0, temperature=5.0),
    ]


def make(count: int, hidden: tuple[int, ...] = (6,)) -> Classifiers:
    return Classifiers(
        ClassifierConfig(hidden=hidden),
        input_shape=(DIM,),
        num_classes=CLASSES,
        num_classifiers=count,
        generator=torch.Generator().manual_seed(1),
    )


def test_side_by_side_is_each_alone_with_its_loss() -> None:
    x, y, teacher = data()
    together = make(5)
    fit_classifiers(
        together, x, y, lessons(teacher), FIT, generator=torch.Generator().manual_seed(3)
    )
    for number, lesson in enumerate(lessons(teacher)):
        alone = make(1)
        generator = torch.Generator().manual_seed(3)
        optimizer = torch.optim.Adam(alone.parameters(), lr=0.05, weight_decay=0.01)
        for _ in range(4):
            for rows in torch.randperm(NUM, generator=generator).split(16):
                loss = distillation_loss(
                    alone(x[rows])[:, 0],
                    y[rows],
                    lesson.soft_target[rows],
                    teacher_weight=lesson.teacher_weight,
                    temperature=lesson.temperature,
                    scale=lesson.scale,
                )
                optimizer.zero_grad()
                loss.mean().backward()
                optimizer.step()
        torch.testing.assert_close(
            predict(together, x)[:, number], predict(alone, x)[:, 0], rtol=1e-3, atol=1e-3
        )


def test_full_batches_need_no_order_and_epochs_are_told() -> None:
    x, y, teacher = data()
    told: list[int] = []
    models = [make(5), make(5)]
    for seed, model in enumerate(models):
        fit_classifiers(
            model,
            x,
            y,
            lessons(teacher),
            FIT.model_copy(update={"batch_size": None}),
            generator=torch.Generator().manual_seed(seed),
            on_epoch=told.append,
        )
    assert told == [1, 2, 3, 4] * 2
    assert torch.equal(predict(models[0], x), predict(models[1], x))


def test_it_learns() -> None:
    x, y, teacher = data()
    model = make(1, hidden=())
    config = FIT.model_copy(update={"epochs": 100, "weight_decay": 0.0})
    fit_classifiers(
        model, x, y, lessons(teacher)[:1], config, generator=torch.Generator().manual_seed(0)
    )
    assert (predict(model, x)[:, 0].argmax(dim=1) == y).float().mean() > 0.95


def test_a_loss_that_is_not_finite() -> None:
    x, y, teacher = data()
    with pytest.raises(RunError, match=r"it is nan in epoch 1\. Lower learning_rate"):
        fit_classifiers(
            make(1), x * torch.nan, y, lessons(teacher)[:1], FIT, generator=torch.Generator()
        )


def test_at_a_stationary_point_rows_are_sums_of_inputs() -> None:
    """With L2 of coefficient g, w_k = sum_i (pi_ik - q_ik) h_i / (g n), pi the mixed target."""
    x, y, teacher = (t.double() if t.is_floating_point() else t for t in data())
    rho, weight, coefficient = teacher_target(teacher), 0.7, 0.05
    rows = torch.zeros(CLASSES, DIM, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [rows],
        max_iter=500,
        tolerance_grad=1e-11,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = distillation_loss(x @ rows.T, y, rho, teacher_weight=weight).mean()
        loss = loss + 0.5 * coefficient * rows.square().sum()
        loss.backward()
        return loss

    optimizer.step(step)
    mixed = (1 - weight) * F.one_hot(y, CLASSES) + weight * rho
    gap = mixed - (x @ rows.T).softmax(dim=1)
    torch.testing.assert_close(
        rows.detach(), (gap.T @ x / (coefficient * NUM)).detach(), rtol=1e-5, atol=1e-6
    )
