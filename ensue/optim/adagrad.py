"""Adagrad that passes over the rows without a gradient.

Duchi et al., "Adaptive Subgradient Methods", JMLR 2011. Without weight decay a row whose gradient
is zero would not move anyway, so the numbers are those of `torch.optim.Adagrad`, and only touched
rows are written. Weight decay is L2 added to the gradient (coupled), of the touched rows alone.
Shapes: V table rows, R touched rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensue.nn import cpu_kernels as kernels
from ensue.nn.sparse_rows import distinct_rows
from ensue.optim._tensorwise import TensorwiseOptimizer
from ensue.optim.row_updates import adagrad_rows_, touched_rows


class Adagrad(TensorwiseOptimizer):
    """Row-wise lazy Adagrad; the rows of a parameter are its slices along the first axis.

    Args:
        initial: value that the sums of squares begin with.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 0.01,
        eps: float = 1e-10,
        initial: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        if lr <= 0.0:
            raise ValueError(f"Adagrad needs lr > 0; got {lr}")
        if initial < 0.0:
            raise ValueError(f"Adagrad needs initial >= 0; got {initial}")
        defaults = {"lr": lr, "eps": eps, "initial": initial, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the sums of squares before the first step."""
        return {"sum": torch.full_like(parameter, group["initial"])}

    def update_(
        self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        """Update the rows that have a gradient, which may be sparse."""
        if grad.is_sparse:
            # Without decay a row whose gradients add up to zero does not move in any case.
            rows, own = (touched_rows if group["weight_decay"] else distinct_rows)(grad)
            adagrad_rows_(
                parameter,
                state["sum"],
                rows,
                own,
                rate=group["lr"],
                eps=(0.0, group["eps"]),
                decay=group["weight_decay"],
            )
            return
        shape = (len(parameter), -1) if parameter.dim() else (1, 1)
        update_rows_(
            parameter.view(shape),
            grad.reshape(shape),
            state["sum"].view(shape),
            rate=group["lr"],
            eps=group["eps"],
            decay=group["weight_decay"],
        )


def update_rows_(
    table: Tensor, grad: Tensor, total: Tensor, *, rate: float, eps: float, decay: float
) -> None:
    """Update table and total [V, D] in the rows where grad [V, D] is not zero."""
    with torch.enable_grad():  # the kernels run where gradients are taken
        use_kernels = decay == 0 and kernels.can_run(table, grad, total)
    if use_kernels and table.is_contiguous():
        kernels.adagrad_rows(*kernels.arrays(table, grad, total), np.float32(rate), np.float32(eps))
        return
    adagrad_rows_(table, total, *touched_rows(grad), rate=rate, eps=(0.0, eps), decay=decay)
