"""Adam that updates only the rows that have a gradient.

Kingma and Ba, ICLR 2015, arXiv:1412.6980, with L2 added to the gradient (coupled). A row whose
gradient is zero is neither read nor written: no momentum step, no decay. On large tables that saves
most of the work; the numbers are not those of Adam. Bias correction counts all steps.
Shapes: V table rows, R touched rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ensue.optim._tensorwise import TensorwiseOptimizer


class LazyAdam(TensorwiseOptimizer):
    """Row-wise lazy Adam; the rows of a parameter are its slices along the first axis."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if lr <= 0.0:
            raise ValueError(f"LazyAdam needs lr > 0; got {lr}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return a count of steps and the two moments before the first step."""
        return {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def update_(
        self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        """Update the rows that have a gradient."""
        state["step"] += 1
        grad = grad.reshape(len(parameter), -1)
        rows = (grad != 0).any(dim=1).nonzero().squeeze(1)
        update_rows_(
            parameter.view(len(parameter), -1),
            rows,
            grad[rows],
            state["exp_avg"].view(len(parameter), -1),
            state["exp_avg_sq"].view(len(parameter), -1),
            group,
            int(state["step"]),
        )


def update_rows_(
    table: Tensor,
    rows: Tensor,
    grad: Tensor,
    mean: Tensor,
    mean_square: Tensor,
    settings: dict[str, Any],
    step: int,
) -> None:
    """Update table, mean and mean_square [V, D] at unique rows [R], given grad [R, D]."""
    lr, eps, decay = settings["lr"], settings["eps"], settings["weight_decay"]
    beta1, beta2 = settings["betas"]
    grad = grad + decay * table[rows]
    new_mean = mean[rows].lerp_(grad, 1 - beta1)
    new_square = mean_square[rows].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    mean[rows], mean_square[rows] = new_mean, new_square
    denominator = (new_square / (1 - beta2**step)).sqrt_().add_(eps)
    table[rows] -= lr / (1 - beta1**step) * new_mean / denominator
