"""Steps of Adagrad and Adam in some rows of a table, in place: no other row is read or written.

In memory one compiled pass, on as many threads as torch uses; each row is one thread's, so results
do not depend on their number. The rows of a table that does not fit the cache come from memory, and
a row's arithmetic is shorter than the way there: the pass asks for the rows of a block ahead of it.
Elsewhere, and for other types than float32 and float64, tensor operations.
Shapes: V table rows, R distinct rows, D width.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ensue.nn.sparse_rows import distinct_rows
from ensue.nn.stretches import in_stretches

_compile: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
BLOCK = 64  # rows asked for together
LEAST = 2048  # rows of a thread, at least


def touched_rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows [R] whose gradient is not zero, and it [R, ...]; the gradient may be sparse.

    >>> touched_rows(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    (tensor([1]), tensor([[0., 2.]]))
    """
    if not grad.is_sparse:
        rows = _is_touched(grad).nonzero().squeeze(1)
        return rows, grad[rows]
    rows, sums = distinct_rows(grad)
    kept = _is_touched(sums)
    return (rows, sums) if bool(kept.all()) else (rows[kept], sums[kept])


def _is_touched(grad: Tensor) -> Tensor:
    return (grad != 0).flatten(1).any(dim=1) if grad.dim() > 1 else grad != 0


def adagrad_rows_(
    table: Tensor,
    total: Tensor,
    rows: Tensor,
    grad: Tensor,
    *,
    rate: float,
    eps: tuple[float, float],
    decay: float,
    is_standard: bool = True,
) -> None:
    """Add g^2 to total [V, D] and subtract rate * g / (sqrt(total + eps[0]) + eps[1]) from table.

    Args:
        rows: [R] int64, distinct. grad: [R, D]; g is grad + decay * table[rows].
        is_standard: whether the root is of the sums with g^2, or of those before it.
    """
    if len(rows) == 0:
        return
    if _in_memory(table, total, grad):
        arrays, shared = [rows.numpy(), _wide(grad)], [_wide(table), _wide(total)]
        numbers = [shared[0].dtype.type(number) for number in (rate, *eps, decay)]
        in_stretches(_adagrad, arrays, (*shared, *numbers, is_standard), least=LEAST)
        return
    own = table[rows]
    grad = grad + decay * own
    before = total[rows]
    after = before.addcmul(grad, grad)
    root = ((after if is_standard else before) + eps[0]).sqrt_().add_(eps[1])
    total[rows] = after
    table[rows] = own - rate * grad / root


def adam_rows_(
    table: Tensor,
    mean: Tensor,
    square: Tensor,
    rows: Tensor,
    grad: Tensor,
    *,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    step: int,
) -> None:
    """Update both moments [V, D], and the table by Adam's direction, corrected for `step` steps.

    Args:
        rows: [R] int64, distinct. grad: [R, D]; decay * table[rows] is added to it.
    """
    if len(rows) == 0:
        return
    beta1, beta2 = betas
    rate, correction = rate / (1 - beta1**step), 1 - beta2**step
    if _in_memory(table, mean, square, grad):
        arrays = [rows.numpy(), _wide(grad)]
        shared = [_wide(tensor) for tensor in (table, mean, square)]
        kind = shared[0].dtype.type
        numbers = [kind(n) for n in (rate, 1 - beta1, beta2, 1 - beta2, eps, decay, correction)]
        in_stretches(_adam, arrays, (*shared, *numbers), least=LEAST)
        return
    grad = grad + decay * table[rows]
    new_mean = mean[rows].lerp_(grad, 1 - beta1)
    new_square = square[rows].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    mean[rows], square[rows] = new_mean, new_square
    table[rows] -= rate * new_mean / (new_square / correction).sqrt_().add_(eps)


def _in_memory(table: Tensor, *others: Tensor) -> bool:
    if table.device.type != "cpu" or table.dtype not in (torch.float32, torch.float64):
        return False
    return all(t.is_contiguous() and t.dtype == table.dtype for t in (table, *others))


def _wide(values: Tensor) -> Any:
    """Return the values as an array over the same memory, [V, D] or [V, 1] of a [V]."""
    return values.detach().reshape(len(values), -1).numpy()


@_compile
def _adagrad(rows, grad, table, total, rate, inner, outer, decay, is_standard):  # type: ignore[no-untyped-def]
    asked = rate
    for first in range(0, len(rows), BLOCK):
        last = min(first + BLOCK, len(rows))
        for n in range(first, last):
            asked += table[rows[n], 0] + total[rows[n], 0]
        for n in range(first, last):
            own, row, sums = grad[n], table[rows[n]], total[rows[n]]
            for d in range(own.shape[0]):
                g = own[d] + decay * row[d]
                before = sums[d]
                after = before + g * g
                sums[d] = after
                row[d] -= rate * g / (np.sqrt((after if is_standard else before) + inner) + outer)
    return asked  # returned so that the reads ahead are not left out


@_compile
def _adam(  # type: ignore[no-untyped-def]
    rows, grad, table, mean, square, rate, share, beta2, share2, eps, decay, correction
):
    asked = rate
    for first in range(0, len(rows), BLOCK):
        last = min(first + BLOCK, len(rows))
        for n in range(first, last):
            asked += table[rows[n], 0] + mean[rows[n], 0] + square[rows[n], 0]
        for n in range(first, last):
            own, row = grad[n], table[rows[n]]
            means, squares = mean[rows[n]], square[rows[n]]
            for d in range(own.shape[0]):
                g = own[d] + decay * row[d]
                means[d] += share * (g - means[d])
                squares[d] = beta2 * squares[d] + share2 * g * g
                row[d] -= rate * means[d] / (np.sqrt(squares[d] / correction) + eps)
    return asked
