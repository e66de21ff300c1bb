"""The distillation loss of a classifier, and of a recommender whose classes are the catalogue.

With teacher weight lam, temperature tau, scale s, soft target rho and student logits z:

    L = (1 - lam) H(label, softmax(z)) + lam s H(rho, softmax(z / tau)),
    H(a, b) = -sum_k a_k log b_k

s = 1 keeps the balance of the two terms, whose gradients are then of size 1 and 1 / tau; s = tau^2
is the scaling of Hinton, Vinyals and Dean, 2015, arXiv:1503.02531. rho is made by
`ensue.losses.soft_targets`; at tau = 1 the loss is H((1 - lam) label + lam rho, softmax(z)).
J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, "Understanding and Improving
Knowledge Distillation", 2020, arXiv:2002.03532.
The losses of a batch are unreduced; `masked_mean` averages them over the valid examples.
Shapes: B batch, K classes, k classes with a soft target of their own; S positions, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ensue.losses.expected_logits import Fill, expected_logits
from ensue.losses.full_softmax import Normalizer, check_shapes, softmax_pass
from ensue.losses.soft_targets import TopKTarget


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    soft_target: Tensor,
    *,
    teacher_weight: float,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Return the unreduced loss [...] of logits [..., K], labels [...] and soft target [..., K].

    Args:
        teacher_weight: lam in [0, 1]: 0 is training on the labels alone, 1 on the teacher alone.
        temperature: tau of the student; that of the teacher is in the soft target.
        scale: s of the soft part.

    >>> logits = torch.tensor([[1.0, 0.0, -1.0]])
    >>> teacher = torch.tensor([[0.8, 0.15, 0.05]])
    >>> loss = distillation_loss(logits, torch.tensor([0]), teacher, teacher_weight=0.5)
    >>> round(loss.item(), 6)
    0.532606
    """
    check_settings("distillation_loss", teacher_weight, temperature, scale)
    if labels.shape != logits.shape[:-1] or soft_target.shape != logits.shape:
        raise ValueError(
            "distillation_loss needs logits and soft_target [B, K] and labels [B]; got "
            f"{tuple(logits.shape)}, {tuple(soft_target.shape)} and {tuple(labels.shape)}"
        )
    log_q = torch.log_softmax(logits, dim=-1)
    hard = -log_q.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if teacher_weight == 0:
        return hard
    if temperature != 1:
        log_q = torch.log_softmax(logits / temperature, dim=-1)
    soft = -(soft_target.detach() * log_q).sum(dim=-1)
    return (1 - teacher_weight) * hard + teacher_weight * scale * soft


def topk_distillation_loss(
    logits: Tensor,
    labels: Tensor,
    soft_target: TopKTarget,
    *,
    teacher_weight: float,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Return `distillation_loss` [B] of a compact soft target, without making it dense.

    With r the target of each class that is not kept and z the logits over the temperature,
    H(rho, softmax(z)) = lse(z) - sum over kept i of (rho_i - r) z_i - r sum of all z.

    >>> values, remainder = torch.tensor([[0.6, 0.2]]), torch.tensor([0.2 / 3])
    >>> target = TopKTarget(torch.tensor([[0, 1]]), values, remainder)
    >>> logits = torch.tensor([[1.0, 0.5, 0.0, -0.5, -1.0]])
    >>> loss = topk_distillation_loss(logits, torch.tensor([0]), target, teacher_weight=1.0)
    >>> round(loss.item(), 6)
    1.247102
    """
    check_settings("topk_distillation_loss", teacher_weight, temperature, scale)
    _check_compact("topk_distillation_loss", labels, soft_target)
    ids, amounts, share, normalizers = _closed_form(
        labels, soft_target, teacher_weight, temperature, scale
    )
    kept = (amounts * logits.gather(-1, ids)).sum(dim=-1)
    loss = -kept - share * logits.sum(dim=-1)
    for coefficient, tau in normalizers:
        loss = loss + coefficient * (logits / tau if tau != 1 else logits).logsumexp(dim=-1)
    return loss


def full_softmax_distillation_loss(
    queries: Tensor,
    table: Tensor,
    targets: Tensor,
    soft_target: TopKTarget,
    *,
    teacher_weight: float,
    temperature: float = 1.0,
    scale: float = 1.0,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the sum over positions of weights times the loss, a scalar.

    `full_softmax_loss` with a teacher: the logits are queries . table + bias over items 1..I, made
    in blocks that stay in cache, with the gradient in the same pass. Neither logits nor targets
    of the whole batch exist at any time.

    Args:
        queries: [S, D].
        table: [I + 1, D], item vectors; row 0 (padding) takes no part and gets no gradient.
        targets: [S] item ids in 1..I.
        soft_target: ids [S, k] in 1..I, values [S, k] and remainder [S], the target of each of
            the I - k other items.
        bias: [I + 1], added to the logits.
        weights: [S], without gradient; default 1 each.

    Raises:
        ValueError: the shapes do not belong together, or a setting is out of range.
    """
    name = "full_softmax_distillation_loss"
    check_settings(name, teacher_weight, temperature, scale)
    check_shapes(name, queries, table, targets)
    _check_compact(name, targets, soft_target)
    ids, amounts, shares, normalizers = _closed_form(
        targets, soft_target, teacher_weight, temperature, scale
    )
    loss = softmax_pass(
        queries,
        table,
        bias,
        ids=ids,
        amounts=amounts.to(table.dtype),
        normalizers=normalizers,
        weights=weights,
    )
    # What every item gets alike needs only the sum of the logits: one query, one summed vector.
    shares = shares.to(table.dtype)
    if weights is not None:
        shares = shares * weights
    loss = loss - ((shares[:, None] * queries).sum(dim=0) * table[1:].sum(dim=0)).sum()
    if bias is not None:
        loss = loss - shares.sum() * bias[1:].sum()
    return loss


def _closed_form(
    labels: Tensor, target: TopKTarget, teacher_weight: float, temperature: float, scale: float
) -> tuple[Tensor, Tensor, Tensor, list[Normalizer]]:
    """Return the loss as terms of the logits, for labels [B].

    The loss of logits z is the sum of the normalizers, less the sum of amounts [B, 1 + k] times
    z[ids [B, 1 + k]], less shares [B] times the sum of z. At temperature 1 one normalizer does.
    """
    hard, soft = 1 - teacher_weight, teacher_weight * scale
    slope = soft / temperature
    kept = slope * (target.values - target.remainder[:, None])
    amounts = torch.cat([torch.full_like(kept[:, :1], hard), kept], dim=1)
    ids = torch.cat([labels[:, None], target.ids], dim=1)
    return ids, amounts, slope * target.remainder, _normalizers(hard, soft, temperature)


def filled_softmax_distillation_loss(
    queries: Tensor,
    table: Tensor,
    targets: Tensor,
    fill: Fill,
    *,
    teacher_weight: float,
    temperature: float = 1.0,
    scale: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Return the sum of the losses for a soft target that is filled in block by block, a scalar.

    Args:
        fill: as in `expected_logits`; the rest as in `full_softmax_distillation_loss`.

    Raises:
        ValueError: the shapes do not belong together, or a setting is out of range.
    """
    name = "filled_softmax_distillation_loss"
    check_settings(name, teacher_weight, temperature, scale)
    check_shapes(name, queries, table, targets)
    hard, soft = 1 - teacher_weight, teacher_weight * scale
    ones = torch.ones(len(targets), dtype=table.dtype, device=table.device)
    loss = softmax_pass(
        queries,
        table,
        bias,
        ids=targets[:, None],
        amounts=hard * ones[:, None],
        normalizers=_normalizers(hard, soft, temperature),
    )
    if soft == 0:
        return loss
    share = soft / temperature
    return loss - share * expected_logits(queries, table, fill, weights=ones, bias=bias)


def _normalizers(hard: float, soft: float, temperature: float) -> list[Normalizer]:
    """Return the normalizers of both terms; at temperature 1 they are one."""
    both = [Normalizer(hard, 1.0), Normalizer(soft, temperature)]
    if temperature == 1:
        both = [Normalizer(hard + soft, 1.0)]
    return [normalizer for normalizer in both if normalizer.coefficient > 0]


def check_settings(name: str, teacher_weight: float, temperature: float, scale: float) -> None:
    """Raise a ValueError, which begins with `name`, for a setting that is out of range."""
    if not 0 <= teacher_weight <= 1:
        raise ValueError(f"{name} needs 0 <= teacher_weight <= 1; got {teacher_weight}")
    if not temperature > 0:
        raise ValueError(f"{name} needs temperature > 0; got {temperature}")
    if not scale > 0:
        raise ValueError(f"{name} needs scale > 0; got {scale}")


def _check_compact(name: str, labels: Tensor, soft_target: TopKTarget) -> None:
    ids, values, remainder = soft_target.ids, soft_target.values, soft_target.remainder
    if (
        labels.dim() != 1
        or ids.shape != values.shape
        or not len(ids) == len(remainder) == len(labels)
    ):
        raise ValueError(
            f"{name} needs ids and values [B, k], and remainder and labels [B]; "
            f"got {tuple(ids.shape)}, {tuple(values.shape)}, {tuple(remainder.shape)} and "
            f"{tuple(labels.shape)}"
        )
