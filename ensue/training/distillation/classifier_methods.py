"""The methods of distillation by name: what each makes of a teacher.

Shapes: n examples, K classes, D width of the teacher's last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ensue.config import Config
from ensue.errors import UsageError, did_you_mean
from ensue.losses.soft_targets import (
    class_mean_table,
    permuted_target,
    pt_shared_target,
    pt_target,
    rel_table,
    sim_table,
    teacher_target,
    topk_target,
    uniform_target,
)
from ensue.training.classifier import Lesson

METHODS = {
    "hard": "the labels alone",
    "ls": "label smoothing: smoothing alone",
    "kd-perm": "the teacher, wrong classes permuted: smoothing, and how sure it is of the example",
    "kd-pt": "the teacher's probability of the label, the rest even: the same two",
    "kd-sim": "likeness of the teacher's output rows: smoothing and relations of classes",
    "kd-rel": "likeness by super-class: smoothing and relations of classes",
    "kd-classavg": "the teacher's mean output for the label: smoothing and relations of classes",
    "kd-pt+sim": "kd-pt, the rest shared as kd-sim says",
    "kd-pt+rel": "kd-pt, the rest shared as kd-rel says",
    "kd-topk": "the teacher's best classes, the rest even",
    "kd": "the teacher's whole output",
}
NEED_OUTPUT_WEIGHTS = ("kd-sim", "kd-pt+sim")
NEED_SUPERCLASSES = ("kd-rel", "kd-pt+rel")


class DistillationConfig(Config):
    """Settings of the methods; each says which ones it is of.

    teacher_weight: lam, of all but hard and ls.
    temperature: tau, of teacher and student, of all but hard and ls.
    scale: s of the soft part; None is the temperature squared.
    pt_temperature: of the label's probability in kd-pt, kd-pt+sim and kd-pt+rel; None is
        `temperature`.
    smoothing: a of ls.
    k: classes kept by kd-topk; None is a fifth of all.
    force_label: kd-topk always keeps the label.
    sim_temperature, sim_power, center_rows: of kd-sim and kd-pt+sim, see `sim_table`.
    b1, b2, b3: label, sibling and other class in proportion, of kd-rel and kd-pt+rel.
    """

    teacher_weight: float = Field(default=0.9, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    scale: float | None = Field(default=None, gt=0)
    pt_temperature: float | None = Field(default=None, gt=0)
    smoothing: float = Field(default=0.1, ge=0, le=1)
    k: int | None = Field(default=None, ge=1)
    force_label: bool = False
    sim_temperature: float = Field(default=0.15, gt=0)
    sim_power: float = Field(default=1.0, gt=0, le=1)
    center_rows: bool = True
    b1: float = Field(default=1.0, gt=0)
    b2: float = Field(default=0.2, ge=0)
    b3: float = Field(default=0.02, ge=0)


@dataclass(frozen=True)
class Teacher:
    """What a trained teacher says, kept because the inputs do not change.

    logits [n, K] of the training part, test_logits [m, K]; output_weights [K, D] of its last
    layer, where it is known.
    """

    logits: Tensor
    test_logits: Tensor
    output_weights: Tensor | None = None


def choose_methods(
    methods: Sequence[str] | None, teacher_has_weights: bool, superclasses: Tensor | None
) -> list[str]:
    """Return the methods asked for, or by default all that can be made, in the order of METHODS.

    Raises:
        UsageError: a method is unknown, or needs what is not there.
    """
    missing = [] if teacher_has_weights else list(NEED_OUTPUT_WEIGHTS)
    if superclasses is None:
        missing += NEED_SUPERCLASSES
    if methods is None:
        return [name for name in METHODS if name not in missing]
    for name in methods:
        if name not in METHODS:
            raise UsageError(f"method {name!r} does not exist.{did_you_mean(name, METHODS)}")
        if name in missing:
            what = "super-classes" if name in NEED_SUPERCLASSES else "the teacher's output weights"
            raise UsageError(f"method {name!r} needs {what}; there are none.")
    return [name for name in METHODS if name in methods]


def make_lessons(
    methods: Sequence[str],
    config: DistillationConfig,
    teacher: Teacher,
    labels: Tensor,
    superclasses: Tensor | None,
    *,
    generator: torch.Generator,
) -> list[Lesson]:
    """Return what a student learns from in each method.

    Args:
        labels: [n], of the training part.
        superclasses: [K], of each class.
        generator: of the permutations of kd-perm.
    """
    logits, tau = teacher.logits, config.temperature
    pt_tau = config.pt_temperature or tau
    k = config.k or max(1, logits.shape[1] // 5)

    def sim() -> Tensor:
        assert teacher.output_weights is not None
        return sim_table(
            teacher.output_weights,
            sim_temperature=config.sim_temperature,
            power=config.sim_power,
            center_rows=config.center_rows,
        )

    def rel() -> Tensor:
        assert superclasses is not None
        return rel_table(superclasses, b1=config.b1, b2=config.b2, b3=config.b3, scale_rows=True)

    def topk() -> Tensor:
        kept = labels if config.force_label else None
        return topk_target(logits, k, temperature=tau, labels=kept).dense(logits.shape[1])

    targets: dict[str, Callable[[], Tensor]] = {
        "kd-perm": lambda: permuted_target(logits, labels, generator=generator, temperature=tau),
        "kd-pt": lambda: pt_target(logits, labels, pt_temperature=pt_tau),
        "kd-sim": lambda: sim()[labels],
        "kd-rel": lambda: rel()[labels],
        "kd-classavg": lambda: class_mean_table(logits, labels, temperature=tau)[labels],
        "kd-pt+sim": lambda: pt_shared_target(logits, labels, sim(), pt_temperature=pt_tau),
        "kd-pt+rel": lambda: pt_shared_target(logits, labels, rel(), pt_temperature=pt_tau),
        "kd-topk": topk,
        "kd": lambda: teacher_target(logits, temperature=tau),
    }
    scale = tau**2 if config.scale is None else config.scale
    weights = {"hard": 0.0, "ls": config.smoothing}
    return [
        Lesson(uniform_target(logits), weights[name])
        if name in weights
        else Lesson(targets[name](), config.teacher_weight, tau, scale)
        for name in methods
    ]
