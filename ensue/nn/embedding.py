"""Table look-ups whose gradient is added to the table's own gradient buffer.

Autograd's own look-up makes a new zero tensor of the table's size at every call and adds it to the
gradient. Here the rows are added to `weight.grad` directly, which the optimizer clears in place:
the same numbers without two passes over the table.
Shapes: V table rows, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
        ctx.weight, ctx.ids, ctx.padding_idx = weight, ids, padding_idx
        return _take(weight.detach(), ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        weight, flat = ctx.weight, ctx.ids.reshape(-1)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        grad = grad.reshape(len(flat), *weight.shape[1:]).to(weight.dtype)
        weight.grad.index_add_(0, flat, grad)
        if ctx.padding_idx is not None:
            weight.grad[ctx.padding_idx] = 0
        return None, None, None


def gather_rows(weight: Tensor, ids: Tensor, padding_idx: int | None = None) -> Tensor:
    """Return weight[ids] [*ids.shape, D] for a leaf `weight` [V, D] or [V].

    The gradient of `weight` appears in `weight.grad` only; `torch.autograd.grad` does not see it.

    Args:
        padding_idx: a row that receives no gradient.
    """
    if weight.requires_grad and torch.is_grad_enabled():
        out: Tensor = _GatherRows.apply(weight, ids, padding_idx)  # type: ignore[no-untyped-call]
        return out
    return _take(weight, ids)


def _take(weight: Tensor, ids: Tensor) -> Tensor:
    return weight.index_select(0, ids.reshape(-1)).view(*ids.shape, *weight.shape[1:])
