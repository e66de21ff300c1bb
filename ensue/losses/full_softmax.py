"""Cross-entropy of a softmax over the whole catalogue, with its gradient made in the same pass.

The logits [S, I] of a batch are by far its largest array, and writing them to fresh memory costs
more than their arithmetic. Here they are made in blocks that stay in cache, in one reused buffer:
a few rows of the whole catalogue, from which loss and gradient follow at once; or, where even that
is too large, tiles of rows and items, visited once for the normalizer and once for the gradient.
Both are exact. Under autocast the products run in its type; sums over rows stay float32.
Shapes: S positions, D width, I items. Row 0 of the table (padding) takes no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = {"cpu": 6 << 20, "cuda": 256 << 20}
MIN_ROWS = 16  # of whole-catalogue blocks; a larger catalogue is tiled
TILE_ROWS = 1024


def full_softmax_loss(
    queries: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return sum_s weights[s] * -log softmax(queries[s] . table + bias)[targets[s]], a scalar.

    The weights are an argument because the gradient of the table is summed over positions while
    the logits are at hand. No position gives 0.

    Args:
        queries: [S, D].
        table: [I + 1, D], item vectors; row 0 gets no gradient.
        targets: [S] item ids in 1..I.
        bias: [I + 1], added to the logits.
        weights: [S], without gradient; default 1 each.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if queries.dim() != 2 or table.dim() != 2 or queries.shape[1] != table.shape[1]:
        raise ValueError(
            "full_softmax_loss needs queries [S, D] and table [I + 1, D]; "
            f"got {tuple(queries.shape)} and {tuple(table.shape)}"
        )
    if targets.shape != queries.shape[:1]:
        raise ValueError(
            f"full_softmax_loss needs one target for each query, [{len(queries)}]; "
            f"got {tuple(targets.shape)}"
        )
    if weights is None:
        weights = torch.ones(len(queries), dtype=table.dtype, device=table.device)
    loss: Tensor = _FullSoftmax.apply(  # type: ignore[no-untyped-call]
        queries, table, bias, targets, weights.detach()
    )
    return loss


@dataclass(frozen=True)
class _Problem:
    """Inputs in the type of the products, without the padding row, and the gradients to fill."""

    queries: Tensor
    table: Tensor
    bias: Tensor | None
    targets: Tensor
    weights: Tensor
    to_queries: Tensor | None
    to_table: Tensor | None
    to_bias: Tensor | None

    @property
    def needs_grad(self) -> bool:
        return self.to_queries is not None

    def logits(self, rows: slice, items: slice, out: Tensor) -> None:
        """Fill out [rows, items]."""
        if self.bias is None:
            torch.mm(self.queries[rows], self.table[items].T, out=out)
        else:
            torch.addmm(self.bias[items], self.queries[rows], self.table[items].T, out=out)

    def add_gradient(self, rows: slice, items: slice, errors: Tensor) -> None:
        """Add what errors [rows, items], softmax minus target, contribute to the gradients."""
        assert self.to_queries is not None
        weights = self.weights[rows]
        product = errors @ self.table[items]
        self.to_queries[rows] += product * weights[:, None]
        weighted = (self.queries[rows] * weights[:, None]).to(errors.dtype)
        if self.to_table is not None:
            own = self.to_table[items]
            if own.dtype == errors.dtype:
                own.addmm_(errors.T, weighted)
            else:
                own += errors.T @ weighted
        if self.to_bias is not None:
            self.to_bias[items] += errors.T @ weights.to(errors.dtype)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        table: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
    ) -> Tensor:
        kind = table.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.dtype
        needs_queries, needs_table, needs_bias = ctx.needs_input_grad[:3]
        needs_grad = needs_queries or needs_table or needs_bias
        to_queries = table.new_zeros(queries.shape) if needs_grad else None
        to_table = torch.zeros_like(table) if needs_table else None
        to_bias = torch.zeros_like(bias) if bias is not None and needs_bias else None
        problem = _Problem(
            queries=queries.to(dtype).contiguous(),
            table=table[1:].to(dtype),
            bias=None if bias is None else bias[1:].to(dtype),
            targets=targets - 1,
            weights=weights,
            to_queries=to_queries,
            to_table=None if to_table is None else to_table[1:],
            to_bias=None if to_bias is None else to_bias[1:],
        )
        block_items = BLOCK_BYTES.get(kind, BLOCK_BYTES["cpu"]) // dtype.itemsize
        num_rows = block_items // max(1, len(table) - 1)
        if num_rows >= MIN_ROWS:
            losses = _by_rows(problem, num_rows)
        else:
            losses = _by_tiles(problem, block_items // TILE_ROWS)
        ctx.query_dtype = queries.dtype
        ctx.save_for_backward(to_queries, to_table, to_bias)
        return (losses * weights).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, to_table, to_bias = ctx.saved_tensors
        scaled = [None if t is None else t * grad for t in (to_table, to_bias)]
        return (to_queries * grad).to(ctx.query_dtype), *scaled, None, None


def _by_rows(problem: _Problem, num_rows: int) -> Tensor:
    """Return the losses [S], a few rows of the whole catalogue at a time."""
    num_positions, all_items = len(problem.queries), slice(0, len(problem.table))
    num_rows = min(num_rows, max(1, num_positions))
    losses = problem.weights.new_empty(num_positions)
    buffer = problem.queries.new_empty(num_rows, all_items.stop)
    for start in range(0, num_positions, num_rows):
        rows = slice(start, min(start + num_rows, num_positions))
        block = buffer[: rows.stop - rows.start]
        problem.logits(rows, all_items, block)
        own = torch.arange(0, block.numel(), all_items.stop, device=block.device)
        own += problem.targets[rows]
        chosen = block.view(-1)[own]
        torch.softmax(block, dim=1, out=block)
        probability = block.view(-1)[own].to(losses.dtype)
        losses[rows] = -probability.log()
        if not bool((probability > 0).all()):  # too small for its type
            logits = torch.empty_like(block)
            problem.logits(rows, all_items, logits)
            exact = logits.logsumexp(dim=1) - chosen
            losses[rows] = torch.where(probability > 0, losses[rows], exact.to(losses.dtype))
        if problem.needs_grad:
            block.view(-1)[own] -= 1
            problem.add_gradient(rows, all_items, block)
    return losses


def _by_tiles(problem: _Problem, num_columns: int) -> Tensor:
    """Return the losses [S], a tile of rows and items at a time; the logits are made twice."""
    num_positions, num_items = len(problem.queries), len(problem.table)
    losses = problem.weights.new_empty(num_positions)
    buffer = problem.queries.new_empty(min(TILE_ROWS, num_positions) * num_columns)
    tiles = [
        slice(first, min(first + num_columns, num_items))
        for first in range(0, num_items, num_columns)
    ]
    for start in range(0, num_positions, TILE_ROWS):
        rows = slice(start, min(start + TILE_ROWS, num_positions))
        size = rows.stop - rows.start
        top = losses.new_full((size,), -torch.inf)
        total, chosen = torch.zeros_like(top), torch.zeros_like(top)
        for items in tiles:
            block = buffer[: size * (items.stop - items.start)].view(size, -1)
            problem.logits(rows, items, block)
            own, is_here = _columns_in(problem.targets[rows], items)
            found = block.gather(1, own[:, None]).squeeze(1)
            chosen = torch.where(is_here, found.to(top.dtype), chosen)
            higher = torch.maximum(top, block.amax(dim=1).to(top.dtype))
            block.sub_(higher[:, None]).exp_()
            total = total * (top - higher).exp() + block.sum(dim=1, dtype=top.dtype)
            top = higher
        normalizer = top + total.log()
        losses[rows] = normalizer - chosen
        if not problem.needs_grad:
            continue
        for items in tiles:
            block = buffer[: size * (items.stop - items.start)].view(size, -1)
            problem.logits(rows, items, block)
            block.sub_(normalizer[:, None]).exp_()
            own, is_here = _columns_in(problem.targets[rows], items)
            block[torch.arange(size, device=own.device), own] -= is_here.to(block.dtype)
            problem.add_gradient(rows, items, block)
    return losses


def _columns_in(targets: Tensor, items: slice) -> tuple[Tensor, Tensor]:
    """Return the column [S] of each target in a tile of items, and whether it lies there [S]."""
    columns = targets - items.start
    is_here = (columns >= 0) & (columns < items.stop - items.start)
    return columns.where(is_here, 0), is_here
