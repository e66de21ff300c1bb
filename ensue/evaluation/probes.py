"""Predict a column from codes: how much of it they hold.

Shapes: N rows, n new rows, D width of the codes, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ensue.evaluation.longitudinal import r_squared
from ensue.evaluation.ranking.metrics import auc

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
PENALTY = 1.0
STEPS = 200


def balancing_weights(labels: Integers, num_classes: int) -> Floats:
    """Return weights of classes [C] with which all that occur count alike, of mean 1 over rows.

    >>> balancing_weights(np.array([0, 0, 0, 1]), 2).tolist()
    [0.6666666666666666, 2.0]
    """
    counts = np.bincount(labels, minlength=num_classes)
    return len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))


def logistic(x: Floats, labels: Integers, new: Floats, *, num_classes: int) -> Floats:
    """Return probabilities [n, C] of a logistic regression of labels [N] on standardized x [N, D].

    Classes count alike. The penalty is half the square of the weights, against the sum over rows.
    """
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    inputs, others = (torch.from_numpy((part - mean) / deviation) for part in (x, new))
    targets = torch.from_numpy(labels)
    of_classes = torch.from_numpy(balancing_weights(labels, num_classes))
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight.T + bias
        loss = F.cross_entropy(logits, targets, weight=of_classes, reduction="sum")
        loss = loss + 0.5 * PENALTY * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found: Any = torch.softmax(others @ weight.T + bias, dim=1).numpy()
    return found


def class_metrics(labels: Integers, probabilities: Floats) -> dict[str, float | None]:
    """Return balanced accuracy, and AUC: with more than two classes the mean of each against the
    rest. Classes that do not occur do not count; AUC is None where only one does.
    """
    present = np.unique(labels)
    guesses = probabilities.argmax(axis=1)
    recalls = [float((guesses[labels == c] == c).mean()) for c in present]
    asked = present if probabilities.shape[1] > 2 else [1]
    areas = [auc((labels == c).astype(np.int64), probabilities[:, c]) for c in asked]
    known = [area for area in areas if area is not None]
    return {
        "balanced_accuracy": float(np.mean(recalls)),
        "auc": float(np.mean(known)) if known else None,
    }


def number_metrics(values: Floats, found: Floats) -> dict[str, float | None]:
    """Return R2 and the root of the mean squared error."""
    rmse = float(np.sqrt(np.square(values - found).mean()))
    return {"r2": r_squared(values, found), "rmse": rmse}
