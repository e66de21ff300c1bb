"""Train classifiers side by side, each with its own targets, by Adam.

At temperature 1 a soft target is mixed with the label beforehand (the loss is the cross-entropy
with the mixture), so that most methods of distillation cost what hard labels cost.
Shapes: n examples, B batch, R classifiers, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ensue.config import Config
from ensue.errors import RunError
from ensue.models.classifier import Classifiers

PREDICT_ROWS = 4096


class FitConfig(Config):
    """How classifiers are trained.

    batch_size: None takes all examples in each step.
    weight_decay: L2 added to the gradient.
    """

    epochs: int = Field(default=30, ge=1)
    batch_size: int | None = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class Lesson:
    """What one classifier learns from: the terms of `ensue.losses.distillation_loss`.

    soft_target: [n, K].
    """

    soft_target: Tensor
    teacher_weight: float
    temperature: float = 1.0
    scale: float = 1.0

    def mixed_target(self, labels: Tensor) -> Tensor:
        """Return [n, K], label and soft target in the proportion of their weights."""
        hard = F.one_hot(labels, self.soft_target.shape[1]).to(self.soft_target.dtype)
        return (1 - self.teacher_weight) * hard + self.teacher_weight * self.soft_target


def fit_classifiers(
    model: Classifiers,
    features: Tensor,
    labels: Tensor,
    lessons: Sequence[Lesson],
    config: FitConfig,
    *,
    generator: torch.Generator,
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train each of the R classifiers of a model on its own lesson.

    Args:
        features, labels: [n, ...] and [n].
        lessons: R of them.
        generator: of the order of the examples.
        on_epoch: is told the number of each epoch after it, from 1.

    Raises:
        RunError: the loss is not finite.
    """
    cold, warm = _split_targets(lessons, labels)
    number, temperature = _warm_ones(lessons)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    num_examples = len(labels)
    size = config.batch_size or num_examples
    for epoch in range(1, config.epochs + 1):
        order = None
        if size < num_examples:
            order = torch.randperm(num_examples, generator=generator)
        for start in range(0, num_examples, size):
            rows = slice(start, start + size) if order is None else order[start : start + size]
            logits = model(features[rows])
            loss = -(cold[rows] * torch.log_softmax(logits, dim=2)).sum()
            if len(number):
                scaled = torch.log_softmax(logits[:, number] / temperature, dim=2)
                loss = loss - (warm[rows] * scaled).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss / len(logits))
            optimizer.step()
        if not math.isfinite(loss.item()):
            raise RunError(
                f"the loss must be finite; it is {loss.item()} in epoch {epoch}. "
                "Lower learning_rate."
            )
        if on_epoch is not None:
            on_epoch(epoch)


@torch.no_grad()
def predict(model: Classifiers, features: Tensor) -> Tensor:
    """Return logits [n, R, K]."""
    return torch.cat([model(part) for part in torch.split(features, PREDICT_ROWS)])


def _warm_ones(lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
    """Return which lessons have a temperature other than 1, and their temperatures [W, 1]."""
    warm = [(r, lesson.temperature) for r, lesson in enumerate(lessons) if lesson.temperature != 1]
    number = torch.tensor([r for r, _ in warm], dtype=torch.long)
    return number, torch.tensor([[tau] for _, tau in warm])


def _split_targets(lessons: Sequence[Lesson], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets [n, R, K] of the logits and [n, W, K] of those over their temperature."""
    cold, warm = [], []
    for lesson in lessons:
        hard = F.one_hot(labels, lesson.soft_target.shape[1]).to(torch.float32)
        soft = lesson.teacher_weight * lesson.scale * lesson.soft_target.to(torch.float32)
        hard *= 1 - lesson.teacher_weight
        if lesson.temperature == 1:
            hard += soft
        else:
            warm.append(soft)
        cold.append(hard)
    none = cold[0].new_zeros(len(labels), 0, cold[0].shape[1])
    return torch.stack(cold, dim=1), torch.stack(warm, dim=1) if warm else none
