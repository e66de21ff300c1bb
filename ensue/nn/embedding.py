"""Table look-ups whose gradient is added to the table's own gradient buffer.

Autograd's own look-up makes a new zero tensor of the table's size at every call and adds it to the
gradient. Here the rows are added to `weight.grad` directly, which the optimizer clears in place:
the same numbers without two passes over the table. `torch.autograd.grad` does not see them.
A table may also be one that grows: what a call needs of it is fetched first, as a small table.
Shapes: V table rows, D width, B batch, C candidates.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.nn import cpu_kernels as kernels


class GrowingTable(Protocol):
    """What `nn.dynamic_embedding` is to a look-up."""

    def fetch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return a table [R, D] that has the rows of all ids, and their numbers in it."""


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, ids: Tensor, padding_idx: int | None, use_kernels: bool
    ) -> Tensor:
        ctx.weight, ctx.ids, ctx.padding_idx, ctx.use_kernels = (
            weight,
            ids,
            padding_idx,
            use_kernels,
        )
        return look_up(weight.detach(), ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None]:
        table = grad_of(ctx.weight)
        flat = ctx.ids.reshape(-1)
        rows = grad.reshape(len(flat), *table.shape[1:]).to(table.dtype)
        if ctx.use_kernels:
            kernels.add_rows(*kernels.arrays(flat, rows, table))
        else:
            table.index_add_(0, flat, rows)
        if ctx.padding_idx is not None:
            table[ctx.padding_idx] = 0
        return None, None, None, None


def gather_rows(
    weight: Tensor | GrowingTable, ids: Tensor, padding_idx: int | None = None
) -> Tensor:
    """Return weight[ids] [*ids.shape, D] for a leaf `weight` [V, D] or [V].

    Args:
        padding_idx: a row that receives no gradient; that of a growing table is 0 without saying.
    """
    if not isinstance(weight, Tensor):
        weight, ids = weight.fetch(ids)
        padding_idx = None
    if weight.requires_grad and torch.is_grad_enabled():
        use_kernels = weight.dim() == 2 and kernels.can_run(weight)
        out: Tensor = _GatherRows.apply(  # type: ignore[no-untyped-call]
            weight, ids, padding_idx, use_kernels
        )
        return out
    return look_up(weight, ids)


class _DotRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.weight, ctx.ids = weight, ids
        ctx.save_for_backward(queries)
        out = queries.new_empty(ids.shape)
        kernels.dot_rows(*kernels.arrays(queries, weight, ids, out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (queries,) = ctx.saved_tensors
        grad_queries = torch.empty_like(queries)
        kernels.dot_rows_backward(
            *kernels.arrays(grad, queries, ctx.weight, ctx.ids, grad_queries, grad_of(ctx.weight))
        )
        return grad_queries, None, None


def dot_rows(queries: Tensor, weight: Tensor | GrowingTable, ids: Tensor) -> Tensor:
    """Return the products [B, C] of queries [B, D] with weight[ids], for a leaf `weight` [V, D].

    Args:
        ids: [B, C].
    """
    if not isinstance(weight, Tensor):
        weight, ids = weight.fetch(ids)
    needs_grad = weight.requires_grad and torch.is_grad_enabled()
    if needs_grad and kernels.can_run(queries, weight):
        out: Tensor = _DotRows.apply(queries.contiguous(), weight, ids)  # type: ignore[no-untyped-call]
        return out
    return (gather_rows(weight, ids) * queries.unsqueeze(1)).sum(dim=2)


def look_up(weight: Tensor, ids: Tensor) -> Tensor:
    """Return weight[ids] [*ids.shape, D], with autograd's own gradient."""
    if weight.dim() == 2:
        return F.embedding(ids, weight)
    return weight.index_select(0, ids.reshape(-1)).view(*ids.shape, *weight.shape[1:])


def grad_of(weight: Tensor) -> Tensor:
    """Return `weight.grad`, made when missing, and made dense when sparse."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    elif weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()
    return weight.grad
