"""Softmax of a batch: every query against the candidates of the whole batch, and losses made of it.

The candidates of a batch are its own targets, so popular items are negatives more often than rare
ones; taking the logarithm of how often each is expected off its logit corrects that (logQ, Yi et
al., RecSys 2019). The contrast of two views of the same items is that of Yao et al., CIKM 2021,
arXiv:2007.12865, Eq. 3: only the first view is normalized, over the second views of all items. The
spread-out baseline there is taken for the same loss without views; its other form is the squared
one of Zhang et al., ICCV 2017, arXiv:1708.06320.

The logits of a batch are made in blocks in one reused buffer, and gradient and loss in one pass,
as in `losses.full_softmax`.
Shapes: S queries, C candidates, D width, P pairs, X excluded pairs, M items.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}


def batch_softmax_loss(
    queries: Tensor,
    candidates: Tensor,
    pairs: Tensor,
    *,
    temperature: float,
    excluded: Tensor | None = None,
    log_q: Tensor | None = None,
) -> Tensor:
    """Return the mean over pairs of -log softmax, a scalar; 0 without pairs.

    With z[s, c] = queries[s] . candidates[c] / temperature - log_q[c], the loss of a pair (s, c) is
    log(exp z[s, c] + sum of exp z[s, j] over the candidates j of s that count) - z[s, c]. All
    candidates count but the positives of s, of any of its pairs, and those that are excluded. A
    query none of whose candidates count has loss 0.

    Args:
        queries: [S, D]; candidates: [C, D]; of length 1 where cosines are meant.
        pairs: [2, P] int64, query and candidate of each positive; queries ascend, no pair twice.
        excluded: [2, X] int64, query and candidate of further items that are no negatives, such as
            the target once more (an accidental hit) or something else the user has; queries ascend.
        log_q: [C], log of how often each candidate is expected in a batch, up to a constant.

    Raises:
        ValueError: the shapes do not belong together, or the temperature is not positive.
    """
    if queries.dim() != 2 or candidates.dim() != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(
            "batch_softmax_loss needs queries [S, D] and candidates [C, D]; got "
            f"{tuple(queries.shape)} and {tuple(candidates.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"batch_softmax_loss needs temperature > 0; got {temperature}")
    if log_q is not None and log_q.shape != candidates.shape[:1]:
        raise ValueError(
            f"batch_softmax_loss needs log_q [C], C = {len(candidates)}; got {tuple(log_q.shape)}"
        )
    if excluded is None:
        excluded = pairs.new_zeros(2, 0)
    kind = queries.device.type
    with torch.autocast(kind, enabled=False):
        dtype = torch.promote_types(queries.dtype, torch.float32)
        loss: Tensor = _BatchSoftmax.apply(  # type: ignore[no-untyped-call]
            queries.to(dtype), candidates.to(dtype), pairs, excluded, log_q, 1.0 / temperature
        )
    return loss


def view_contrast(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Return the mean loss of finding second[i] for first[i] among all of `second` [M, D].

    Both are of length 1. One item is told apart from nothing: its loss is 0.

    >>> z = torch.eye(2)
    >>> round(view_contrast(z, z, temperature=0.5).item(), 6)
    0.126928
    """
    if first.shape != second.shape:
        raise ValueError(
            "view_contrast needs two views [M, D] of the same items; got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    own = torch.arange(len(first), device=first.device)
    return batch_softmax_loss(first, second, torch.stack([own, own]), temperature=temperature)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Return the mean loss of finding the other view of each of 2M views among all others.

    The loss of SimCLR (Chen et al., ICML 2020, arXiv:2002.05709, Eq. 1): other than in
    `view_contrast`, both views look for each other, and those of one side are negatives too.

    Args:
        first, second: [M, D], two views of the same things, of length 1.

    >>> round(nt_xent(torch.eye(2), torch.eye(2), temperature=0.5).item(), 6)
    0.239545
    """
    if first.shape != second.shape:
        raise ValueError(
            "nt_xent needs two views [M, D] of the same things; got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    views = torch.cat([first, second])
    own = torch.arange(len(views), device=views.device)
    others = torch.stack([own, own.roll(len(first))])
    itself = torch.stack([own, own])
    return batch_softmax_loss(views, views, others, temperature=temperature, excluded=itself)


def spread_out_square(vectors: Tensor) -> Tensor:
    """Return the sum over pairs i != j of (vectors[i] . vectors[j]) ** 2, over M; vectors [M, D].

    >>> round(spread_out_square(torch.tensor([[1.0, 0.0], [0.6, 0.8]])).item(), 6)
    0.36
    """
    gram = vectors.T @ vectors  # its squares sum to those of all pairs, i = j among them
    own = vectors.square().sum(dim=1).square().sum()
    return (gram.square().sum() - own) / max(1, len(vectors))


class _BatchSoftmax(torch.autograd.Function):
    """Loss and gradients, block by block of queries."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        candidates: Tensor,
        pairs: Tensor,
        excluded: Tensor,
        log_q: Tensor | None,
        scale: float,
    ) -> Tensor:
        to_queries, to_candidates = torch.zeros_like(queries), torch.zeros_like(candidates)
        total = queries.new_zeros((), dtype=torch.float64)
        share = 1.0 / max(1, pairs.shape[1])
        limit = BLOCK_BYTES.get(queries.device.type, BLOCK_BYTES["cpu"]) // queries.dtype.itemsize
        size = min(len(queries), max(16, limit // max(1, len(candidates))))
        buffer = queries.new_empty(size, len(candidates))
        bias = None if log_q is None else -log_q.to(queries.dtype)
        for first in range(0, len(queries), max(1, size)):
            own = queries[first : first + size]
            logits = buffer[: len(own)]
            if bias is None:
                torch.mm(own, candidates.T, out=logits).mul_(scale)
            else:
                torch.addmm(bias, own, candidates.T, alpha=scale, out=logits)
            positives, others = (
                _of_rows(p, first, len(own), len(queries)) for p in (pairs, excluded)
            )
            total += _errors_(logits, positives, others, share)
            torch.mm(logits, candidates, out=to_queries[first : first + size])
            to_candidates.addmm_(logits.T, own, alpha=scale)
        ctx.save_for_backward(to_queries.mul_(scale), to_candidates)
        return total.to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, to_candidates = ctx.saved_tensors
        return to_queries * grad, to_candidates * grad, None, None, None, None


def _of_rows(pairs: Tensor, first: int, count: int, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the pairs of rows first, ..., first + count - 1, from 0 on."""
    rows, columns = pairs
    if count < num_rows:
        bounds = torch.tensor([first, first + count], device=rows.device)
        start, stop = torch.searchsorted(rows.contiguous(), bounds).tolist()
        rows, columns = rows[start:stop], columns[start:stop]
    return rows - first, columns


def _errors_(
    logits: Tensor,
    positives: tuple[Tensor, Tensor],
    others: tuple[Tensor, Tensor],
    share: float,
) -> Tensor:
    """Return the loss of a block; logits [n, C] become its gradient with respect to them."""
    rows, _ = positives
    wanted = logits[positives]
    logits[positives] = -torch.inf
    logits[others] = -torch.inf
    top = logits.amax(dim=1, keepdim=True)
    top.masked_fill_(top == -torch.inf, 0)  # nothing counts
    logits.sub_(top).exp_()
    sums = logits.sum(dim=1)
    margin = (sums.log() + top.squeeze(1))[rows] - wanted
    slopes = torch.sigmoid(margin) * share
    weights = torch.zeros_like(sums).index_add_(0, rows, slopes)
    logits.mul_((weights / sums.where(sums > 0, 1.0))[:, None])
    logits[positives] = -slopes
    return F.softplus(margin).double().sum() * share
