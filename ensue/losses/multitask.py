"""Losses of several tasks: cross-entropy of binary ones, squared error of regressions.

A row without a label of a task (NaN) has no part in its loss and gives it no gradient.
Shapes: B rows, M tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensue.data.ranking.schema import TaskKind
from ensue.losses.pointwise import negative_loss, positive_loss


def row_losses(logits: Tensor, labels: Tensor, kinds: Sequence[TaskKind]) -> Tensor:
    """Return the loss of each row and task [B, M], 0 where there is no label.

    >>> row_losses(torch.zeros(2, 1), torch.tensor([[1.0], [torch.nan]]), ["binary"]).tolist()
    [[0.6931471824645996], [0.0]]

    Args:
        logits: [B, M], of regressions the values themselves.
        labels: [B, M], in [0, 1] of binary tasks; NaN where there is none.
        kinds: of the M tasks.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.shape != labels.shape or logits.shape[1:] != (len(kinds),):
        raise ValueError(
            "row_losses needs logits and labels [B, M] and M kinds; "
            f"got {tuple(logits.shape)}, {tuple(labels.shape)} and {len(kinds)}"
        )
    dtype = torch.promote_types(logits.dtype, labels.dtype)  # losses of bfloat16 are float32
    is_labelled = ~labels.isnan()
    # What has no label is taken out before the loss: 0 times an infinite loss would be NaN.
    logits = torch.where(is_labelled, logits, 0.0).to(dtype)
    labels = torch.where(is_labelled, labels, 0.0).to(dtype)
    columns = [
        _loss(kind, own, label)
        for kind, own, label in zip(kinds, logits.unbind(1), labels.unbind(1), strict=True)
    ]
    return torch.where(is_labelled, torch.stack(columns, dim=1), 0.0)


def task_losses(
    logits: Tensor, labels: Tensor, weights: Tensor, kinds: Sequence[TaskKind]
) -> Tensor:
    """Return the weighted mean loss of each task over its labelled rows [M], 0 where it has none.

    Args:
        weights: [B, M], 0 or more.
    """
    losses = row_losses(logits, labels, kinds)
    weights = label_weights(labels, weights).to(losses.dtype)
    total = (losses * weights).sum(dim=0)
    shares = weights.sum(dim=0)
    return total / torch.where(shares > 0, shares, 1.0)


def label_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weights [B, M], 0 where there is no label."""
    return torch.where(labels.isnan(), 0.0, weights)


def _loss(kind: TaskKind, logits: Tensor, labels: Tensor) -> Tensor:
    if kind == "regression":
        return (logits - labels).square()
    return labels * positive_loss(logits) + (1 - labels) * negative_loss(logits)
