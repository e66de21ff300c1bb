"""Table look-ups whose gradient is added to the table's own gradient buffer.

Autograd's own look-up makes a new zero tensor of the table's size at every call and adds it to the
gradient. Here the rows are added to `weight.grad` directly, which the optimizer clears in place:
the same numbers without two passes over the table.
Shapes: V table rows, D width, B batch, C candidates.
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
        _add_rows_(ctx.weight, ctx.ids, grad)
        if ctx.padding_idx is not None:
            ctx.weight.grad[ctx.padding_idx] = 0
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


class _DotRows(torch.autograd.Function):
    """Sums over D by elementwise products: batched matrix products of one row are far slower."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        rows = _take(weight.detach(), ids)  # [B, C, D]
        ctx.weight, ctx.ids = weight, ids
        ctx.save_for_backward(queries, rows)
        return (rows * queries.unsqueeze(1)).sum(dim=2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        queries, rows = ctx.saved_tensors
        grad = grad.unsqueeze(2)  # [B, C, 1]
        _add_rows_(ctx.weight, ctx.ids, grad * queries.unsqueeze(1))
        return rows.mul_(grad).sum(dim=1), None, None  # rows are not needed again


def dot_rows(queries: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """Return the products [B, C] of queries [B, D] with weight[ids], for a leaf `weight` [V, D].

    The gradient of `weight` appears in `weight.grad` only, as with `gather_rows`.

    Args:
        ids: [B, C].
    """
    if weight.requires_grad and torch.is_grad_enabled():
        out: Tensor = _DotRows.apply(queries, weight, ids)  # type: ignore[no-untyped-call]
        return out
    return (_take(weight, ids) * queries.unsqueeze(1)).sum(dim=2)


def _take(weight: Tensor, ids: Tensor) -> Tensor:
    return weight.index_select(0, ids.reshape(-1)).view(*ids.shape, *weight.shape[1:])


def _add_rows_(weight: Tensor, ids: Tensor, grad: Tensor) -> None:
    """Add grad [*ids.shape, D] to the rows `ids` of `weight.grad`, which is made when missing."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    flat = ids.reshape(-1)
    rows = grad.reshape(len(flat), *weight.shape[1:])
    weight.grad.index_add_(0, flat, rows.to(weight.dtype))
