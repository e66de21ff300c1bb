"""Update rules of rows that hold their own state: weights [D], then the state [S].

The numbers are those of `ensue.optim`: Adagrad (Duchi et al., JMLR 2011), LazyAdam (Kingma and Ba,
ICLR 2015, without the rows that have no gradient), plain descent, and Adagrad with one sum for each
row, of mean squares, as in TorchRec. L2 is added to the gradient. Rows whose gradient is all zero
are left alone. Shapes: R rows, D width, S state.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from ensue.config import Config
from ensue.nn import row_kernels as kernels
from ensue.nn.slabs import Slabs

KERNELS = {
    "sgd": kernels.sgd,
    "adagrad": kernels.adagrad,
    "rowwise_adagrad": kernels.rowwise_adagrad,
    "adam": kernels.adam,
}


class RowRule(Config):
    """How a row moves along its gradient.

    initial: what sums of squares begin with.
    eps: None is 1e-8 for Adam and 1e-10 for Adagrad.
    """

    name: Literal["adagrad", "rowwise_adagrad", "adam", "sgd"] = "adagrad"
    initial: float = Field(default=0.0, ge=0)
    eps: float | None = Field(default=None, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)

    def state_width(self, dim: int) -> int:
        """Return S of rows with `dim` weights."""
        return {"adagrad": dim, "rowwise_adagrad": 1, "adam": 2 * dim, "sgd": 0}[self.name]

    @property
    def first_state(self) -> float:
        """What the state of a new row holds."""
        return 0.0 if self.name == "adam" else self.initial

    @property
    def least(self) -> float:
        """What is added to the root."""
        return (1e-8 if self.name == "adam" else 1e-10) if self.eps is None else self.eps


def update_slabs_(
    slabs: Slabs, rows: Tensor, grad: Tensor, rule: RowRule, *, lr: float, step: int
) -> None:
    """Take a step of distinct rows [R] of the slabs along the gradient [R, D]; 0 is left alone.

    step: number of this step, from 1 on.
    """
    if slabs.is_compiled and grad.dtype == slabs.dtype:
        values = grad.contiguous().numpy()
        numbers = [values.dtype.type(n) for n in (lr, rule.weight_decay, rule.least)]
        extra = []
        if rule.name == "adam":
            shares, corrections = (tuple(1 - b**n for b in rule.betas) for n in (1, step))
            extra = [np.array(n, values.dtype) for n in (rule.betas, shares, corrections)]
        place = slabs.pointers(), slabs.bits, slabs.width, rows.contiguous().numpy()
        KERNELS[rule.name](*place, values, *numbers, *extra)
        return
    is_touched = (grad != 0).any(dim=1) & (rows != 0)
    rows, grad = rows[is_touched], grad[is_touched]
    own = slabs.take(rows)
    update_rows_(own, grad, rule, lr=lr, step=step)
    slabs.put(rows, own)


def update_rows_(rows: Tensor, grad: Tensor, rule: RowRule, *, lr: float, step: int) -> None:
    """Take a step of rows [R, D + S] along the gradient [R, D].

    step: number of this step, from 1 on.
    """
    dim = grad.shape[1]
    weight, state = rows[:, :dim], rows[:, dim:]
    if rule.weight_decay:
        grad = grad.add(weight, alpha=rule.weight_decay)
    if rule.name == "sgd":
        weight.sub_(grad, alpha=lr)
    elif rule.name == "adam":
        weight.sub_(_adam_direction(state, grad, rule, step), alpha=lr)
    else:
        if rule.name == "adagrad":
            state.addcmul_(grad, grad)
        else:
            state.add_(grad.square().mean(1, keepdim=True))
        weight.sub_(grad * lr / (state.sqrt() + rule.least))


def _adam_direction(state: Tensor, grad: Tensor, rule: RowRule, step: int) -> Tensor:
    """Move the moments, and return the mean over the root of the mean square, both corrected."""
    beta1, beta2 = rule.betas
    mean, square = state.chunk(2, dim=1)
    mean.lerp_(grad, 1 - beta1)
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    spread = (square / (1 - beta2**step)).sqrt_().add_(rule.least)
    return mean / (1 - beta1**step) / spread
