"""Adam that updates only the rows that have a gradient.

Kingma and Ba, ICLR 2015, arXiv:1412.6980, with L2 added to the gradient (coupled). A row whose
gradient is zero is neither read nor written: no momentum step, no decay. On large tables that saves
most of the work; the numbers are not those of Adam. Bias correction counts all steps.
Shapes: V table rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ensue.optim._tensorwise import TensorwiseOptimizer
from ensue.optim.row_updates import adam_rows_, touched_rows


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
        """Update the rows that have a gradient, which may be sparse."""
        state["step"] += 1
        tensors = (parameter, state["exp_avg"], state["exp_avg_sq"], grad)
        table, mean, square, grad = (t if t.dim() else t.view(1) for t in tensors)
        adam_rows_(
            table,
            mean,
            square,
            *touched_rows(grad),
            rate=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            decay=group["weight_decay"],
            step=int(state["step"]),
        )
