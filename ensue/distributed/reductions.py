"""Sums and exchanges between workers that autograd can go through.

They are the two schedules of distributed equivalent substitution (Rong et al., SIGIR 2020,
arXiv:1909.04823) and the exchange of table-wise sharding. Nothing is scaled: with a loss that is a
sum over samples divided by the number of all of them, each gradient is what a single process gets.
Divide by the number of one worker's samples, or average gradients, and they are N times too large
or too small, which no loss curve shows.
A backward pass is a collective too, so an input that needs no gradient on some worker (one that
owns no table, say) is given one: every worker takes part. Each of them must run the backward pass.
Shapes: N workers, b rows of one worker, B = N * b, c columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ensue.distributed.traffic import Purpose
from ensue.distributed.workers import Workers


class _SumScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, workers: Workers, wire: torch.dtype | None) -> Tensor:
        ctx.workers, ctx.wire = workers, wire
        return workers.reduce_scatter(x, purpose="forward", wire=wire)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.workers.all_gather(grad, purpose="backward", wire=ctx.wire), None, None


def sum_scatter(x: Tensor, workers: Workers, *, wire: torch.dtype | None = None) -> Tensor:
    """Return this worker's rows [b, c] of the sum of all workers' x [B, c].

    What follows is computed for b rows by each worker, and the whole loss is the sum of theirs. The
    gradient [B, c] is gathered from all of them. Sends 2 B c (N - 1) / N numbers in both passes.

    Args:
        wire: dtype of the numbers on their way, forth and back; sums are made in that of x.

    Raises:
        ValueError: the number of rows is not a multiple of N.
    """
    return _apply(_SumScatter, x, workers, wire)


def sum_everywhere(
    x: Tensor, workers: Workers, *, purpose: Purpose, wire: torch.dtype | None
) -> Tensor:
    """Return the sum [B, ...] of all workers' x [B, ...]; autograd does not see it.

    Raises:
        ValueError: with a wire, the number of rows is not a multiple of N.
    """
    if wire is None:
        return workers.all_reduce_(x.contiguous().clone(), purpose=purpose)
    own = workers.reduce_scatter(x, purpose=purpose, wire=wire)
    return workers.all_gather(own, purpose=purpose, wire=wire)


class _SumAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, workers: Workers, wire: torch.dtype | None) -> Tensor:
        return sum_everywhere(x, workers, purpose="forward", wire=wire)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, None


def sum_all(x: Tensor, workers: Workers, *, wire: torch.dtype | None = None) -> Tensor:
    """Return the sum [B, c] of all workers' x [B, c].

    What follows is computed for all B rows by every worker, so that each has the whole loss and the
    gradient as it is. Sends 2 B c (N - 1) / N numbers forth and none back.

    Args:
        wire: dtype of the numbers on their way; sums are made in that of x, and rounded before
            they return, so that all workers have the same.

    Raises:
        ValueError: with a wire, the number of rows is not a multiple of N.
    """
    return _apply(_SumAll, x, workers, wire)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, widths: list[int], workers: Workers, wire: torch.dtype | None
    ) -> Tensor:
        ctx.widths, ctx.workers, ctx.wire = widths, workers, wire
        rows = x.shape[1]
        give, take = [rows * x.shape[2]] * workers.size, [rows * width for width in widths]
        flat = workers.all_to_all(x.reshape(-1), give, take, purpose="forward", wire=wire)
        parts = zip(torch.split(flat, take), widths, strict=True)
        return torch.cat([part.view(rows, width) for part, width in parts], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        workers, rows = ctx.workers, len(grad)
        width = ctx.widths[workers.rank]
        give, take = [rows * width for width in ctx.widths], [rows * width] * workers.size
        parts = [part.reshape(-1) for part in torch.split(grad, ctx.widths, dim=1)]
        flat = workers.all_to_all(torch.cat(parts), give, take, purpose="backward", wire=ctx.wire)
        return flat.view(workers.size, rows, width), None, None, None


def exchange(
    x: Tensor, widths: Sequence[int], workers: Workers, *, wire: torch.dtype | None = None
) -> Tensor:
    """Return all columns [b, sum(widths)] of this worker's rows, those of worker 0 first.

    Args:
        x: [N, b, widths[rank]], this worker's columns of the rows of every worker.
        widths: number of columns that each worker holds; may be 0.
        wire: dtype of the numbers on their way, forth and back.

    Raises:
        ValueError: x does not have that shape.
    """
    widths = list(widths)
    fits = len(widths) == workers.size and x.dim() == 3
    if not fits or x.shape[::2] != (workers.size, widths[workers.rank]):
        raise ValueError(
            f"exchange needs x [N, b, widths[rank]] with N, rank = {workers.size, workers.rank}; "
            f"got {tuple(x.shape)} and widths {widths}"
        )
    return _apply(_Exchange, x, widths, workers, wire)


def _apply(function: type[torch.autograd.Function], x: Tensor, *args: Any) -> Tensor:
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()
    out: Tensor = function.apply(x, *args)  # type: ignore[no-untyped-call]
    return out
