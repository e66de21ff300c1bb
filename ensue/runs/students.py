"""Students of one teacher, one for each method, and what is measured of each.

Shapes: n training and m test examples, R methods, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ensue.evaluation.attribution import standard_error
from ensue.evaluation.distillation import (
    block_contrast,
    calibration_error,
    confidence_correlation,
    cosine_matrix,
    rescaling,
    target_entropy,
)
from ensue.losses.soft_targets import teacher_target
from ensue.models.classifier import ClassifierConfig, Classifiers
from ensue.runs.classifier_data import ClassifierData
from ensue.training.classifier import FitConfig, Lesson, fit_classifiers, predict
from ensue.training.distillation.classifier_methods import DistillationConfig, Teacher, make_lessons

NUM_LOOKS = 10  # epochs after which omega is measured, the last one among them
MAX_DIAGNOSED = 10_000  # training examples whose omega is measured, evenly spread
NUM_BINS = 40


class ClassifierDistillationConfig(DistillationConfig, FitConfig, ClassifierConfig):
    """Settings of `distill_classifier`: of the methods, of the trainings, and of the student.

    teacher_channels, teacher_hidden, teacher_epochs: of a teacher that is trained here.
    """

    teacher_channels: tuple[int, ...] = ()
    teacher_hidden: tuple[int, ...] = (256,)
    teacher_epochs: int = Field(default=30, ge=1)


@dataclass(frozen=True)
class Outcome:
    """What a method gave with one seed.

    contrast: of the output layer, where there are super-classes.
    soft_entropy, target_entropy: of the soft target, and of it mixed with the labels, in nats.
    omega_mean, omega_median, omega_correlation: of the training examples over the training, the
        last one with the teacher's probability of the label. The mean is at the mercy of examples
        whose label the student is sure of; see `confidence_correlation`.
    omega_by_epoch: medians.
    cosines: of the output layer [K, K].
    """

    method: str
    seed: int
    accuracy: float
    contrast: float | None
    calibration_error: float
    soft_entropy: float
    target_entropy: float
    omega_mean: float
    omega_median: float
    omega_correlation: float | None
    omega_by_epoch: dict[int, float]
    cosines: list[list[float]]


def train_students(
    data: ClassifierData,
    teacher: Teacher,
    methods: Sequence[str],
    config: ClassifierDistillationConfig,
    *,
    seed: int,
    on_epoch: Callable[[int], None],
) -> list[tuple[Outcome, Tensor]]:
    """Return the outcome of each method with one seed, and the omegas it had over the training."""
    generator = torch.Generator().manual_seed(seed)
    lessons = make_lessons(
        methods, config, teacher, data.labels, data.superclasses, generator=generator
    )
    model = Classifiers(
        config,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        num_classifiers=len(methods),
        generator=generator,
    )
    shown = torch.linspace(0, len(data.labels) - 1, min(MAX_DIAGNOSED, len(data.labels))).long()
    looks = set(torch.linspace(1, config.epochs, min(NUM_LOOKS, config.epochs)).long().tolist())
    omegas: dict[int, Tensor] = {}  # by epoch [R, examples shown]

    def look(epoch: int) -> None:
        on_epoch(epoch)
        if epoch in looks:
            logits = predict(model, data.features[shown])
            omegas[epoch] = _omegas(logits, lessons, shown, data.labels[shown])

    fit_classifiers(
        model, data.features, data.labels, lessons, config, generator=generator, on_epoch=look
    )
    logits = predict(model, data.test_features)
    p_t = teacher_target(teacher.logits[shown], temperature=config.temperature)
    p_t = p_t.gather(1, data.labels[shown, None]).squeeze(1)
    found = []
    for number, (method, lesson) in enumerate(zip(methods, lessons, strict=True)):
        own = {epoch: values[number] for epoch, values in omegas.items()}
        omega = torch.cat(list(own.values()))
        cosines = cosine_matrix(model.output_weights[number].detach())
        outcome = Outcome(
            method=method,
            seed=seed,
            accuracy=accuracy(logits[:, number], data.test_labels),
            contrast=_contrast(cosines, data.superclasses),
            calibration_error=calibration_error(logits[:, number], data.test_labels),
            soft_entropy=target_entropy(lesson.soft_target) if method != "hard" else 0.0,
            target_entropy=target_entropy(lesson.mixed_target(data.labels)),
            omega_mean=float(omega.mean()),
            omega_median=float(omega.median()),
            omega_correlation=confidence_correlation(omega, p_t.repeat(len(own))),
            omega_by_epoch={epoch: float(values.median()) for epoch, values in own.items()},
            cosines=cosines.tolist(),
        )
        found.append((outcome, omega))
    return found


def summarize(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each method: means over seeds, and the accuracy's standard error."""
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        accuracies = [outcome.accuracy for outcome in own]
        row: dict[str, Any] = {
            "method": method,
            "accuracy": mean(accuracies),
            "standard_error": standard_error(accuracies),
        }
        for name in (
            "contrast",
            "calibration_error",
            "soft_entropy",
            "target_entropy",
            "omega_mean",
            "omega_median",
            "omega_correlation",
        ):
            values = [getattr(outcome, name) for outcome in own]
            row[name] = None if None in values else mean(values)
        rows.append(row)
    return rows


def omega_edges(omegas: Mapping[str, Sequence[Tensor]]) -> Tensor:
    """Return the edges of bins that hold all but the outer hundredths of the omegas."""
    every = torch.cat([values for parts in omegas.values() for values in parts]).sort().values
    low, high = every[len(every) // 100], every[-1 - len(every) // 100]
    margin = 0.05 + 0.02 * (high - low)  # where all are 1, bins must still have a width
    return torch.linspace(float(low - margin), float(high + margin), NUM_BINS + 1).double()


def count_omegas(omegas: Mapping[str, Sequence[Tensor]], edges: Tensor) -> dict[str, list[int]]:
    """Return how many omegas of each method lie in each bin, those outside in the outer ones."""
    last = len(edges) - 2
    counts = {}
    for method, parts in omegas.items():
        bins = (torch.bucketize(torch.cat(list(parts)), edges) - 1).clamp(0, last)
        counts[method] = bins.bincount(minlength=last + 1).tolist()
    return counts


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit is that of the label."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def _omegas(logits: Tensor, lessons: Sequence[Lesson], shown: Tensor, labels: Tensor) -> Tensor:
    """Return omega [R, examples shown] for their logits [., R, K] and labels."""
    return torch.stack(
        [
            rescaling(
                logits[:, number],
                lesson.soft_target[shown],
                labels,
                teacher_weight=lesson.teacher_weight,
                temperature=lesson.temperature,
                scale=lesson.scale,
            )
            for number, lesson in enumerate(lessons)
        ]
    )


def _contrast(cosines: Tensor, superclasses: Tensor | None) -> float | None:
    """Return the block contrast; None where the super-classes do not make blocks."""
    if superclasses is None or not 1 < len(set(superclasses.tolist())) < len(superclasses):
        return None
    return block_contrast(cosines, superclasses)
