"""Rows of which each worker has a number of its own: all of them, and sums on their way back.

Shapes: N workers, b_r rows of worker r, B the sum of them, ... any more dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ensue.distributed.workers import Workers


class _GatherUneven(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], workers: Workers) -> Tensor:
        ctx.counts, ctx.workers = counts, workers
        if workers.size == 1:
            return x.view_as(x)
        copies = x.repeat(workers.size, *[1] * (x.dim() - 1))
        return workers.all_to_all(copies, [len(x)] * workers.size, counts, purpose="forward")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        workers, counts = ctx.workers, ctx.counts
        own = [counts[workers.rank]] * workers.size
        parts = workers.all_to_all(grad, counts, own, purpose="backward").split(own)
        total = parts[0].clone()
        for part in parts[1:]:  # in rank order, on all alike
            total += part
        return total, None, None


def gather_uneven(x: Tensor, counts: Sequence[int], workers: Workers) -> Tensor:
    """Return the rows [B, ...] of all workers, in rank order.

    The gradient is the sum of what all make of them. Worker r sends b_r rows to each of the others,
    and back what it owes them: (N - 1) b_r + B - b_r rows in all.

    Args:
        x: [b_r, ...], this worker's rows.
        counts: [N], the b_r of all.

    Raises:
        ValueError: counts that are not those of N workers, or not of x.
    """
    counts = list(counts)
    if len(counts) != workers.size or counts[workers.rank] != len(x):
        raise ValueError(
            f"gather_uneven needs x [counts[rank], ...] with N, rank = "
            f"{workers.size, workers.rank}; got {tuple(x.shape)} and counts {counts}"
        )
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()  # the way back is a collective too
    out: Tensor = _GatherUneven.apply(x, counts, workers)  # type: ignore[no-untyped-call]
    return out


def share_of(total: int, rank: int, size: int) -> slice:
    """Return which of `total` things a worker has: shares as equal as can be, in rank order.

    >>> [share_of(5, rank, 3) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    few, more = divmod(total, size)
    start = rank * few + min(rank, more)
    return slice(start, start + few + (rank < more))
