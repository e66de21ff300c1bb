"""Binary cross-entropy of candidates looked up in a table, with its gradient in the same pass.

On a CPU the rows of a candidate are read once: for its logit, its loss and the gradient of the
query. Elsewhere, and in other types, the same in tensor operations.
Shapes: B batch, C candidates, D width, V table rows. Candidate 0 is padding and does not count.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ensue.losses.pointwise import negative_loss, positive_loss
from ensue.losses.reduce import masked_mean, masked_sum
from ensue.nn import cpu_kernels as kernels
from ensue.nn.embedding import GrowingTable, dot_rows, gather_rows, grad_of


def candidate_bce(
    queries: Tensor,
    table: Tensor | GrowingTable,
    bias: Tensor | GrowingTable,
    candidates: Tensor,
    *,
    num_targets: int,
    reduction: Literal["mean", "sum"],
) -> Tensor:
    """Return the loss of a batch, a scalar.

    Args:
        queries: [B, D].
        table, bias: [V, D] and [V], leaves; their gradients are added to `.grad` directly. Or
            tables that grow, both.
        candidates: [B, C] ids, the first `num_targets` of each row targets, the rest negatives.
        reduction: "mean" averages targets and negatives separately and adds the two; "sum" adds
            all terms of a row and averages over rows.
    """
    if (
        isinstance(table, Tensor)
        and isinstance(bias, Tensor)
        and kernels.can_run(queries, table, bias)
    ):
        weights = _weights(candidates, num_targets, reduction)
        return compiled_bce(queries, table, bias, candidates, num_targets, weights)
    logits = dot_rows(queries, table, candidates) + gather_rows(bias, candidates)
    is_real = candidates != 0
    targets = positive_loss(logits[:, :num_targets]), is_real[:, :num_targets]
    negatives = negative_loss(logits[:, num_targets:]), is_real[:, num_targets:]
    if reduction == "mean":
        return masked_mean(*targets) + masked_mean(*negatives)
    return (masked_sum(*targets) + masked_sum(*negatives)) / len(candidates)


def compiled_bce(
    queries: Tensor,
    table: Tensor,
    bias: Tensor | None,
    candidates: Tensor,
    num_targets: int,
    weights: Tensor,
) -> Tensor:
    """Return the sum of weights [B, C] times the losses of all candidates but 0, a scalar.

    The tensors are ones that the kernels can take; the rest as of `candidate_bce`.
    """
    loss: Tensor = _CandidateBCE.apply(  # type: ignore[no-untyped-call]
        queries, table, bias, candidates, num_targets, weights.to(table.dtype)
    )
    return loss


def _weights(candidates: Tensor, num_targets: int, reduction: str) -> Tensor:
    """Return the weight of each candidate [B, C] for a reduction."""
    weights = torch.full(candidates.shape, 1 / max(1, len(candidates)))
    if reduction == "mean":
        for part in (slice(None, num_targets), slice(num_targets, None)):
            weights[:, part] = 1 / max(1, int(candidates[:, part].count_nonzero()))
    return weights


class _CandidateBCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        table: Tensor,
        bias: Tensor | None,
        candidates: Tensor,
        num_targets: int,
        weights: Tensor,
    ) -> Tensor:
        to_logits, to_queries = queries.new_empty(candidates.shape), torch.empty_like(queries)
        own_bias = queries.new_empty(0) if bias is None else bias
        loss = kernels.candidate_bce(
            *kernels.arrays(queries, table, own_bias, candidates),
            num_targets,
            *kernels.arrays(weights, to_logits, to_queries),
        )
        ctx.table, ctx.bias = table, bias
        ctx.save_for_backward(queries, candidates, to_logits, to_queries)
        return queries.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, candidates, to_logits, to_queries = ctx.saved_tensors
        grad_bias = queries.new_empty(0) if ctx.bias is None else grad_of(ctx.bias)
        arrays = kernels.arrays(to_logits, queries, candidates, grad_of(ctx.table), grad_bias)
        kernels.candidate_bce_backward(np.float32(grad.item()), *arrays)
        return to_queries * grad, None, None, None, None, None
