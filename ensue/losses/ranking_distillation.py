"""Ranking distillation: the first items of a teacher's ranking as weighted positives.

Tang and Wang, "Ranking Distillation: Learning Compact Ranking Models With High Performance for
Recommender System", KDD 2018, arXiv:1809.07428. Equation numbers are the paper's.
The weights are constants of the loss: no gradient runs through them.
Shapes: B queries, K teacher items of each, best first; E probes, items drawn to estimate ranks; D
width, V table rows. Item 0 is padding: the teacher has no more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ensue.losses.candidates import compiled_bce
from ensue.losses.pointwise import positive_loss
from ensue.nn import cpu_kernels as kernels
from ensue.nn.embedding import dot_rows, gather_rows


def position_weights(num_items: int, scale: float) -> Tensor:
    """Return exp(-r / scale) for r = 1..K, normalized to sum 1 (Eq. 8) [K].

    Args:
        scale: lambda > 0; near 0 only the first item counts, a large one weighs all the same.

    >>> [round(weight, 3) for weight in position_weights(3, scale=1.0).tolist()]
    [0.665, 0.245, 0.09]
    """
    if scale <= 0:
        raise ValueError(f"position_weights needs scale > 0; got {scale}")
    return torch.softmax(-torch.arange(1, num_items + 1, dtype=torch.float64) / scale, dim=0)


def uniform_weights(num_items: int) -> Tensor:
    """Return 1 / K for each position [K]."""
    return torch.full((num_items,), 1 / max(1, num_items), dtype=torch.float64)


def reciprocal_weights(num_items: int) -> Tensor:
    """Return weights in proportion to 1 / r, r = 1..K, of sum 1 [K]."""
    weights = 1 / torch.arange(1, num_items + 1, dtype=torch.float64)
    return weights / weights.sum()


def geometric_weights(num_items: int, share: float) -> Tensor:
    """Return share (1 - share)^r, r = 1..K [K]: what is left at each position loses that share."""
    if not 0 < share < 1:
        raise ValueError(f"geometric_weights needs 0 < share < 1; got {share}")
    return share * (1 - share) ** torch.arange(1, num_items + 1, dtype=torch.float64)


def discrepancy_weights(ranks: Tensor, scale: float) -> Tensor:
    """Return tanh(max(scale (rank - r), 0)) (Eq. 9) [B, K].

    An item that the student ranks as high as the teacher, or higher, has weight 0.

    Args:
        ranks: [B, K], the student's ranks of the teacher's items, 1 is best.
        scale: mu > 0, how fast the weight grows with the distance.
    """
    if scale <= 0:
        raise ValueError(f"discrepancy_weights needs scale > 0; got {scale}")
    own = torch.arange(1, ranks.shape[-1] + 1, device=ranks.device)
    return torch.tanh((scale * (ranks - own)).clamp(min=0))


def hybrid_weights(static: Tensor, dynamic: Tensor, *, normalize: bool) -> Tensor:
    """Return static [K] times dynamic [B, K], [B, K].

    Args:
        normalize: divide by the sum over the items, as the paper does and the authors' program
            does not: then the items that still disagree carry all the weight, otherwise
            distillation fades as the student comes to agree. Where all are 0 they stay 0.
    """
    weights = static * dynamic
    if not normalize:
        return weights
    total = weights.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, weights / total.where(total > 0, 1.0), 0.0)


def estimated_ranks(num_above: Tensor, *, num_probes: Tensor | int, num_others: Tensor) -> Tensor:
    """Return floor(n (O - 1) / E) + 1 (Algorithm 1) of n = num_above [B, K], 1 is best.

    Args:
        num_probes: E, of each query, [B, 1] or one number; without probes the rank is 1.
        num_others: O, how many unlabeled items the probes were drawn from, [B, 1] or a scalar.
    """
    num_probes = torch.as_tensor(num_probes, device=num_above.device).clamp(min=1)
    # The product first: it is exact, and so is a quotient that is a whole number.
    return (num_above.double() * (num_others - 1) / num_probes).floor() + 1


def ranking_distillation_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """Return sum_r weights[b, r] * -log sigmoid(logits[b, r]) of each query (Eq. 5) [B].

    Args:
        logits: [B, K], the student's, of the teacher's items.
        weights: [B, K] or [K].
    """
    if logits.shape[-1] != weights.shape[-1]:
        raise ValueError(
            "ranking_distillation_loss needs logits [B, K] and weights [B, K] or [K]; "
            f"got {tuple(logits.shape)} and {tuple(weights.shape)}"
        )
    return (weights.detach().to(logits.dtype) * positive_loss(logits)).sum(dim=-1)


def distillation_of_items(
    queries: Tensor, table: Tensor, bias: Tensor | None, items: Tensor, weights: Tensor
) -> Tensor:
    """Return the mean of `ranking_distillation_loss` over queries, a scalar; item 0 does not count.

    On a CPU the rows of the items are read once, for the loss and the gradient of the queries.

    Args:
        queries: [B, D].
        table, bias: [V, D] and [V] or none, leaves; their gradients are added to `.grad` directly.
        items: [B, K], the teacher's.
        weights: [B, K] or [K].
    """
    if kernels.can_run(queries, table):
        shares = weights.expand(items.shape) / max(1, len(items))
        return compiled_bce(queries, table, bias, items, items.shape[1], shares)
    logits = dot_rows(queries, table, items)
    if bias is not None:
        logits = logits + gather_rows(bias, items)
    return ranking_distillation_loss(logits, weights * (items > 0)).mean()
