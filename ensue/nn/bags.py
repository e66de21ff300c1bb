"""Weighted sums of table rows, a bag of rows for each sum: the rows are never laid side by side.

Shapes: V table rows, D width, B bags, S rows in all bags.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ensue.nn import cpu_kernels as kernels
from ensue.nn.embedding import GrowingTable, grad_of


class _BagSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor, use_kernels: bool
    ) -> Tensor:
        ctx.table, ctx.is_leaf = table, table.is_leaf
        ctx.save_for_backward(ids, offsets, weights)
        ctx.use_kernels = use_kernels
        return sum_bags(table.detach(), ids, offsets, weights, use_kernels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ids, offsets, weights = ctx.saved_tensors
        into = grad_of(ctx.table) if ctx.is_leaf else torch.zeros_like(ctx.table)
        if ctx.use_kernels:
            kernels.bag_sum_backward(*kernels.arrays(grad, ids, offsets, weights, into))
        else:
            rows = grad.repeat_interleave(offsets.diff(), dim=0, output_size=len(ids))
            into.index_add_(0, ids, rows * weights[:, None])
        return None if ctx.is_leaf else into, None, None, None, None


def bag_sum(table: Tensor | GrowingTable, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of weights[s] * table[ids[s]] over each bag [B, D]; 0 of an empty one.

    The gradient of a leaf goes to `table.grad` directly, as in nn.embedding.

    Args:
        table: [V, D], or one that grows.
        ids: [S] int64; offsets: [B + 1] int64, bag b is ids[offsets[b]:offsets[b + 1]].
        weights: [S], without gradient.
    """
    if not isinstance(table, Tensor):
        table, ids = table.fetch(ids)
    use_kernels = kernels.can_run(table, weights)
    if table.requires_grad and torch.is_grad_enabled():
        out: Tensor = _BagSum.apply(table, ids, offsets, weights, use_kernels)  # type: ignore[no-untyped-call]
        return out
    return sum_bags(table, ids, offsets, weights, use_kernels)


def bag_mean(table: Tensor | GrowingTable, ids: Tensor, offsets: Tensor) -> Tensor:
    """Return the mean row of each bag [B, D]; 0 of an empty one."""
    if not isinstance(table, Tensor):
        table, ids = table.fetch(ids)
    return bag_sum(table, ids, offsets, mean_weights(offsets, ids.shape[0], table.dtype))


def mean_weights(offsets: Tensor, total: int, dtype: torch.dtype) -> Tensor:
    """Return 1 / (length of its bag) for each of `total` rows in bags [B + 1]."""
    lengths = offsets.diff()
    shares = 1.0 / lengths.clamp(min=1).to(dtype)
    return shares.repeat_interleave(lengths, output_size=total)


def sum_bags(
    table: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor, use_kernels: bool
) -> Tensor:
    """Return what `bag_sum` does, without a gradient."""
    out = table.new_zeros(offsets.shape[0] - 1, table.shape[1])
    if use_kernels:
        kernels.bag_sum(*kernels.arrays(ids, offsets, weights, table, out))
        return out
    bags = torch.arange(out.shape[0], device=ids.device)
    bags = bags.repeat_interleave(offsets.diff(), output_size=ids.shape[0])
    return out.index_add_(0, bags, table.index_select(0, ids) * weights[:, None])
