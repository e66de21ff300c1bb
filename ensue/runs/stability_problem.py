"""What `ensue stability` trains, and how it measures what came out.

Shapes: n rows, M tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ensue.data.ranking.schema import Task
from ensue.evaluation.ranking.metrics import auc
from ensue.training.objective import MultitaskObjective

# "auc" of each binary task and "rmse" of each other one; None where it is not a number.
Quality = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Problem:
    """A new network, its objective, and the measure of what it learned on rows it has not seen."""

    model: nn.Module
    objective: MultitaskObjective
    measure: Callable[[Any], Quality]


@dataclass(frozen=True)
class Bench:
    """A problem for each seed.

    facts: what it is, as JSON; a sweep is resumed with the same ones only.
    make: returns the problem of a seed; torch's own generator is seeded before.
    """

    facts: dict[str, Any]
    make: Callable[[int], Problem]


def quality_of(
    tasks: Sequence[Task], labels: NDArray[np.float32], predictions: NDArray[np.float32]
) -> Quality:
    """Return AUC and RMSE by task, of labels and predictions [n, M]; no label is NaN."""
    quality: Quality = {"auc": {}, "rmse": {}}
    for number, task in enumerate(tasks):
        is_known = ~np.isnan(labels[:, number])
        label, found = labels[is_known, number], predictions[is_known, number]
        if task.kind == "binary":
            is_finite = bool(np.isfinite(found).all())
            quality["auc"][task.name] = auc(label, found) if is_finite else None
        else:
            error = np.square(found.astype(np.float64) - label).mean() ** 0.5
            quality["rmse"][task.name] = _finite(float(error))
    return quality


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
