"""Cross-entropy of a softmax over the whole catalogue, with its gradient made in the same pass.

The logits [S, I] of a batch are by far its largest array, and writing them to fresh memory costs
more than their arithmetic. Here they are made in blocks that stay in cache, in one reused buffer:
a few rows of the whole catalogue, from which loss and gradient follow at once; or, where even that
is too large, tiles of rows and items, visited once for the normalizer and once for the gradient.
Both are exact. Under autocast the products run in its type; sums over rows stay float32.
Of a catalogue that several processes share, each makes the tiles of its own items, and only the
normalizers are joined: one row of numbers for each position.
Shapes: S positions, D width, I items, k items with a target of their own. Row 0 of the table
(padding) takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

BLOCK_BYTES = {"cpu": 6 << 20, "cuda": 256 << 20}
MIN_ROWS = 16  # of whole-catalogue blocks; a larger catalogue is tiled
TILE_ROWS = 1024


class Normalizer(NamedTuple):
    """A term of a loss: coefficient * logsumexp(logits / temperature)."""

    coefficient: float
    temperature: float


class OtherItems(Protocol):
    """Those who have the other items of a catalogue; all call both in the same order."""

    def highest(self, x: Tensor) -> Tensor:
        """Return the elementwise maximum of what all have."""

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of what all have."""


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
    check_shapes("full_softmax_loss", queries, table, targets)
    return softmax_pass(
        queries,
        table,
        bias,
        ids=targets[:, None],
        amounts=torch.ones(len(targets), 1, dtype=table.dtype, device=table.device),
        normalizers=(Normalizer(1.0, 1.0),),
        weights=weights,
    )


def softmax_pass(
    queries: Tensor,
    table: Tensor,
    bias: Tensor | None,
    *,
    ids: Tensor,
    amounts: Tensor,
    normalizers: Sequence[Normalizer],
    weights: Tensor | None = None,
    others: OtherItems | None = None,
) -> Tensor:
    """Return the sum over s of weights[s] times the loss of position s, a scalar.

    With the logits z of a position, its loss is the sum of the normalizers, less the sum over j of
    amounts[s, j] * z[ids[s, j]]: a cross-entropy with a target that is 0 but for k items.

    Args:
        ids: [S, k] in 1..I, repeated or not; 0 is an item that others have.
        amounts: [S, k], without gradient.
        normalizers: one or two.
        queries, table, bias, weights: as in `full_softmax_loss`.
        others: who have the other items, where this is a part of a catalogue. The loss is that of
            the whole; the gradient of a query is what the own items contribute to it.
    """
    if weights is None:
        weights = torch.ones(len(queries), dtype=table.dtype, device=table.device)
    loss: Tensor = _SoftmaxPass.apply(  # type: ignore[no-untyped-call]
        queries, table, bias, ids, amounts.detach(), tuple(normalizers), weights.detach(), others
    )
    return loss


def check_shapes(name: str, queries: Tensor, table: Tensor, targets: Tensor) -> None:
    """Raise a ValueError unless the shapes are [S, D], [I + 1, D] and [S]."""
    if queries.dim() != 2 or table.dim() != 2 or queries.shape[1] != table.shape[1]:
        raise ValueError(
            f"{name} needs queries [S, D] and table [I + 1, D]; "
            f"got {tuple(queries.shape)} and {tuple(table.shape)}"
        )
    if targets.shape != queries.shape[:1]:
        raise ValueError(
            f"{name} needs one target for each query, [{len(queries)}]; got {tuple(targets.shape)}"
        )


@dataclass(frozen=True)
class _Problem:
    """Inputs in the type of the products, without the padding row, and the gradients to fill."""

    queries: Tensor
    table: Tensor
    bias: Tensor | None
    ids: Tensor
    amounts: Tensor
    normalizers: tuple[Normalizer, ...]
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


class _SoftmaxPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        table: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        amounts: Tensor,
        normalizers: tuple[Normalizer, ...],
        weights: Tensor,
        others: OtherItems | None,
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
            ids=ids - 1,
            amounts=amounts,
            normalizers=normalizers,
            weights=weights,
            to_queries=to_queries,
            to_table=None if to_table is None else to_table[1:],
            to_bias=None if to_bias is None else to_bias[1:],
        )
        # One buffer for each normalizer; together they stay in cache.
        block_items = BLOCK_BYTES.get(kind, BLOCK_BYTES["cpu"]) // dtype.itemsize
        block_items //= len(normalizers)
        num_rows = block_items // max(1, len(table) - 1)
        if others is None and num_rows >= MIN_ROWS:
            losses = _by_rows(problem, num_rows)
        else:
            losses = _by_tiles(problem, max(1, block_items // TILE_ROWS), others)
        ctx.query_dtype = queries.dtype
        ctx.save_for_backward(to_queries, to_table, to_bias)
        return (losses * weights).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, to_table, to_bias = ctx.saved_tensors
        scaled = [None if t is None else t * grad for t in (to_table, to_bias)]
        return (to_queries * grad).to(ctx.query_dtype), *scaled, None, None, None, None, None


def _by_rows(problem: _Problem, num_rows: int) -> Tensor:
    """Return the losses [S], a few rows of the whole catalogue at a time."""
    num_positions, all_items = len(problem.queries), slice(0, len(problem.table))
    num_rows = min(num_rows, max(1, num_positions))
    losses = problem.weights.new_empty(num_positions)
    # With z the logit of the first of the ids, log sum exp is z - log softmax(z).
    factors = -problem.amounts
    factors[:, 0] += sum(c / temperature for c, temperature in problem.normalizers)
    buffers = [problem.queries.new_empty(num_rows, all_items.stop) for _ in problem.normalizers]
    for start in range(0, num_positions, num_rows):
        rows = slice(start, min(start + num_rows, num_positions))
        blocks = [buffer[: rows.stop - rows.start] for buffer in buffers]
        problem.logits(rows, all_items, blocks[0])
        ids = problem.ids[rows]
        chosen = blocks[0].gather(1, ids).to(losses.dtype)
        loss = (chosen * factors[rows]).sum(dim=1)
        for block, (coefficient, temperature) in _last_first(blocks, problem.normalizers):
            scaled = blocks[0]
            if temperature != 1:
                scaled = torch.div(scaled, temperature, out=block)
            torch.softmax(scaled, dim=1, out=block)
            probability = block.gather(1, ids[:, :1]).squeeze(1).to(losses.dtype)
            log_p = probability.log()
            if not bool((probability > 0).all()):  # too small for its type
                logits = torch.empty_like(block)
                problem.logits(rows, all_items, logits)
                exact = chosen[:, 0] / temperature - (logits / temperature).logsumexp(dim=1)
                log_p = torch.where(probability > 0, log_p, exact)
            loss -= coefficient * log_p
        losses[rows] = loss
        if problem.needs_grad:
            errors = _combine(blocks, problem.normalizers)
            errors.scatter_add_(1, ids, -problem.amounts[rows].to(errors.dtype))
            problem.add_gradient(rows, all_items, errors)
    return losses


def _by_tiles(problem: _Problem, num_columns: int, others: OtherItems | None) -> Tensor:
    """Return the losses [S], a tile of rows and items at a time; the logits are made twice."""
    num_positions, num_items = len(problem.queries), len(problem.table)
    losses = problem.weights.new_zeros(num_positions)
    tops = losses.new_full((num_positions,), -torch.inf)
    totals = [torch.zeros_like(tops) for _ in problem.normalizers]
    tile_size = min(TILE_ROWS, num_positions) * num_columns
    buffers = [problem.queries.new_empty(tile_size) for _ in problem.normalizers]
    tiles = [
        (slice(start, min(start + TILE_ROWS, num_positions)), items)
        for start in range(0, num_positions, TILE_ROWS)
        for items in (
            slice(first, min(first + num_columns, num_items))
            for first in range(0, num_items, num_columns)
        )
    ]
    for rows, items in tiles:
        _add_tile_(problem, rows, items, buffers, (losses, tops, totals))
    if others is not None:
        highest = others.highest(tops)
        for total, (_, temperature) in zip(totals, problem.normalizers, strict=True):
            total *= ((tops - highest) / temperature).exp()
        losses, *totals = others.total(torch.stack([losses, *totals]))
        tops = highest
    logs = [
        tops + temperature * total.log()
        for total, (_, temperature) in zip(totals, problem.normalizers, strict=True)
    ]
    for log, (coefficient, temperature) in zip(logs, problem.normalizers, strict=True):
        losses += coefficient / temperature * log
    if problem.needs_grad:
        for rows, items in tiles:
            _add_tile_gradient_(problem, rows, items, buffers, logs)
    return losses


def _add_tile_(
    problem: _Problem,
    rows: slice,
    items: slice,
    buffers: list[Tensor],
    sums: tuple[Tensor, Tensor, list[Tensor]],
) -> None:
    """Add a tile to the losses, the largest logits and the sums of exponentials, [S] each."""
    losses, tops, totals = sums
    blocks = _tile_of(buffers, rows, items)
    problem.logits(rows, items, blocks[0])
    columns, amounts = _columns_in(problem, rows, items)
    losses[rows] -= (blocks[0].gather(1, columns) * amounts).sum(dim=1)
    top = tops[rows]
    higher = torch.maximum(top, blocks[0].amax(dim=1).to(top.dtype))
    for total, (block, (_, temperature)) in zip(
        reversed(totals), _last_first(blocks, problem.normalizers), strict=True
    ):
        _exp(blocks[0], higher, temperature, out=block)
        total[rows] *= ((top - higher) / temperature).exp()
        total[rows] += block.sum(dim=1, dtype=top.dtype)
    tops[rows] = higher


def _add_tile_gradient_(
    problem: _Problem, rows: slice, items: slice, buffers: list[Tensor], logs: list[Tensor]
) -> None:
    """Add a tile to the gradients; logs: the normalizers [S], each times its temperature."""
    blocks = _tile_of(buffers, rows, items)
    problem.logits(rows, items, blocks[0])
    for log, (block, (_, temperature)) in zip(
        reversed(logs), _last_first(blocks, problem.normalizers), strict=True
    ):
        _exp(blocks[0], log[rows], temperature, out=block)
    errors = _combine(blocks, problem.normalizers)
    columns, amounts = _columns_in(problem, rows, items)
    errors.scatter_add_(1, columns, -amounts.to(errors.dtype))
    problem.add_gradient(rows, items, errors)


def _tile_of(buffers: list[Tensor], rows: slice, items: slice) -> list[Tensor]:
    """Return what of each buffer is used for a tile [rows, items]."""
    size, width = rows.stop - rows.start, items.stop - items.start
    return [buffer[: size * width].view(size, width) for buffer in buffers]


def _last_first(
    blocks: Sequence[Tensor], normalizers: Sequence[Normalizer]
) -> list[tuple[Tensor, Normalizer]]:
    """Return pairs in the order in which the logits, in the first block, are overwritten last."""
    return list(zip(blocks, normalizers, strict=True))[::-1]


def _exp(logits: Tensor, shift: Tensor, temperature: float, *, out: Tensor) -> None:
    """Fill out [rows, items] with exp((logits - shift) / temperature)."""
    torch.sub(logits, shift[:, None], out=out)
    if temperature != 1:
        out.div_(temperature)
    out.exp_()


def _combine(blocks: Sequence[Tensor], normalizers: Sequence[Normalizer]) -> Tensor:
    """Return the gradient of the normalizers, made of their softmaxes, in the first block."""
    factors = [coefficient / temperature for coefficient, temperature in normalizers]
    if factors[0] != 1:
        blocks[0].mul_(factors[0])
    for block, factor in zip(blocks[1:], factors[1:], strict=True):
        blocks[0].add_(block, alpha=factor)
    return blocks[0]


def _columns_in(problem: _Problem, rows: slice, items: slice) -> tuple[Tensor, Tensor]:
    """Return columns [S, k] of the ids in a tile of items, and their amounts: 0 for ids outside."""
    columns = problem.ids[rows] - items.start
    is_here = (columns >= 0) & (columns < items.stop - items.start)
    return columns.where(is_here, 0), problem.amounts[rows].where(is_here, 0)
