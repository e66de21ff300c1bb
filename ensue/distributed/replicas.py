"""Ways between what each worker has of its own rows, and what all need of all rows.

Shapes: N workers, b rows of one worker, B = N * b, c columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ensue.distributed.reductions import sum_everywhere
from ensue.distributed.workers import Workers


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, workers: Workers, wire: torch.dtype | None) -> Tensor:
        ctx.workers, ctx.wire = workers, wire
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return sum_everywhere(grad, ctx.workers, purpose="backward", wire=ctx.wire), None, None


def sum_gradient(x: Tensor, workers: Workers, *, wire: torch.dtype | None = None) -> Tensor:
    """Return x as it is; its gradient is the sum of those of all workers.

    For what all workers have, and each uses for columns of its own: a parameter, or the sums of the
    rows of all [B, c].

    Args:
        wire: dtype of the gradients on their way, which then are of a multiple of N rows.
    """
    out: Tensor = _SumGradient.apply(x, workers, wire)  # type: ignore[no-untyped-call]
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, workers: Workers, wire: torch.dtype | None) -> Tensor:
        ctx.workers, ctx.wire = workers, wire
        return workers.all_gather(x, purpose="forward", wire=wire)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.workers.reduce_scatter(grad, purpose="backward", wire=ctx.wire), None, None


def gather(x: Tensor, workers: Workers, *, wire: torch.dtype | None = None) -> Tensor:
    """Return the rows [B, c] of all workers; the gradient is the sum of what all make of them."""
    out: Tensor = _Gather.apply(x, workers, wire)  # type: ignore[no-untyped-call]
    return out


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, widths: list[int], workers: Workers, wire: torch.dtype | None
    ) -> Tensor:
        ctx.widths, ctx.workers, ctx.wire = widths, workers, wire
        rows, own = len(x), widths[workers.rank]
        parts = [part.reshape(-1) for part in torch.split(x, widths, dim=1)]
        give, take = [rows * width for width in widths], [rows * own] * workers.size
        flat = workers.all_to_all(torch.cat(parts), give, take, purpose="forward", wire=wire)
        return flat.view(workers.size * rows, own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, widths = len(grad) // ctx.workers.size, ctx.widths
        give = [rows * grad.shape[1]] * ctx.workers.size
        take = [rows * width for width in widths]
        flat = ctx.workers.all_to_all(
            grad.reshape(-1), give, take, purpose="backward", wire=ctx.wire
        )
        parts = zip(torch.split(flat, take), widths, strict=True)
        return torch.cat([part.view(rows, width) for part, width in parts], dim=1), None, None, None


def spread(
    x: Tensor, widths: list[int], workers: Workers, *, wire: torch.dtype | None = None
) -> Tensor:
    """Return the columns of this worker [B, own width] in the rows of all, where each has own rows.

    Args:
        x: [b, sum of widths], this worker's rows. widths: number of columns of each worker.
    """
    out: Tensor = _Spread.apply(x, widths, workers, wire)  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def add_up_(extra: Tensor, grads: Sequence[Tensor], workers: Workers) -> Tensor:
    """Make gradients, the same parameters' on all workers, their sums, in one all-reduce.

    Args:
        extra: [n] numbers that go with them.

    Returns:
        The sums of the numbers [n].
    """
    flat = torch.cat([part.flatten() for part in [extra.detach(), *grads]])
    workers.all_reduce_(flat, purpose="dense")
    sums, *summed = torch.split(flat, [len(extra), *(grad.numel() for grad in grads)])
    for grad, total in zip(grads, summed, strict=True):
        grad.copy_(total.view(grad.shape))
    return sums
