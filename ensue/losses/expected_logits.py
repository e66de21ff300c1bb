"""The mean logit of the catalogue under a distribution that is made block by block.

A soft target that gives every item a probability of its own (a teacher's whole output) would be
[S, I] for a batch. H(rho, softmax(z)) = logsumexp(z) - sum_i rho_i z_i needs it only in the second
term, which is computed here a few rows at a time, with its gradient in the same pass.
Shapes: S positions, D width, I items. Row 0 of the table (padding) takes no part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = {"cpu": 6 << 20, "cuda": 256 << 20}

# Fills [rows, I] with the distributions of some positions over items 1..I.
Fill = Callable[[slice, Tensor], None]


def expected_logits(
    queries: Tensor, table: Tensor, fill: Fill, *, weights: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return sum_s weights[s] * sum_i rho[s, i] * (queries[s] . table[i] + bias[i]), a scalar.

    Args:
        queries: [S, D].
        table: [I + 1, D]; row 0 gets no gradient.
        fill: called with a slice of positions and a buffer [rows, I] to set to their rho.
        weights: [S], without gradient.
        bias: [I + 1].
    """
    found: Tensor = _ExpectedLogits.apply(  # type: ignore[no-untyped-call]
        queries, table, bias, fill, weights.detach()
    )
    return found


class _ExpectedLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        table: Tensor,
        bias: Tensor | None,
        fill: Fill,
        weights: Tensor,
    ) -> Tensor:
        with torch.autocast(table.device.type, enabled=False):
            return _forward(ctx, queries, table, bias, fill, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, to_table, to_bias = ctx.saved_tensors
        return (
            (to_queries * grad).to(ctx.query_dtype),
            to_table * grad,
            None if to_bias is None else to_bias * grad,
            None,
            None,
        )


def _forward(
    ctx: Any,
    queries: Tensor,
    table: Tensor,
    bias: Tensor | None,
    fill: Fill,
    weights: Tensor,
) -> Tensor:
    """Return the sum, and keep its gradients for the way back."""
    items = table[1:]
    to_queries = torch.empty_like(queries, dtype=table.dtype)
    to_table = torch.zeros_like(table)
    to_bias = None if bias is None else torch.zeros_like(bias)
    size = BLOCK_BYTES.get(table.device.type, BLOCK_BYTES["cpu"]) // table.dtype.itemsize
    num_rows = min(max(1, size // max(1, len(items))), max(1, len(queries)))
    buffer = table.new_empty(num_rows, len(items))
    total = table.new_zeros(())
    for first in range(0, len(queries), num_rows):
        rows = slice(first, min(first + num_rows, len(queries)))
        rho = buffer[: rows.stop - rows.start]
        fill(rows, rho)
        own, weight = queries[rows].to(table.dtype), weights[rows].to(table.dtype)
        to_queries[rows] = (rho @ items) * weight[:, None]
        total += (to_queries[rows] * own).sum()
        to_table[1:].addmm_(rho.T, own * weight[:, None])
        if bias is not None and to_bias is not None:
            share = rho.T @ weight
            to_bias[1:] += share
            total += share @ bias[1:]
    ctx.query_dtype = queries.dtype
    ctx.save_for_backward(to_queries, to_table, to_bias)
    return total
