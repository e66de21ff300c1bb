"""Surrogates of 1 - pAp@k, which descend on the pairs that the metric counts.

Hiranandani, Vijitbenjaronk, Koyejo and Jain, "Optimization and Analysis of the pAp@k Metric for
Recommender Systems", ICML 2020, names several surrogates; its text was not at hand. These follow
the family of Kar, Narasimhan and Jain for precision@k, ICML 2015 (arXiv:1505.06813). With
h(p, q) = max(0, 1 - (p - q)), n+ positives, beta = min(k, n+) and K = min(k, negatives),

    ramp = 1 / (beta K) * sum of h over the best beta positives and the best K negatives
    avg  = 1 / (n+ K)   * sum of h over all positives and the best K negatives
    max  = 1 / (beta K) * sum of h over the worst beta positives and the best K negatives

1 - pAp@k <= ramp <= avg <= max; avg and max are convex. "logistic" is ramp with
log(1 + exp(q - p)) for h. Which positives and negatives are taken is no part of the gradient.
Shapes: B users, P positives and N negatives of each, padded.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ensue.config import Config

PapkForm = Literal["ramp", "avg", "max", "logistic"]
FORMS: tuple[PapkForm, ...] = get_args(PapkForm)


class PapkConfig(Config):
    """How pAp@k is trained on.

    k: of the metric; the one that is reported.
    form: of the surrogate (`losses.papk`).
    warmup_epochs: first epochs with an easier loss.
    warmup: that is the form "avg", which moves positives that rank low, too, or binary
        cross-entropy against any negatives: from a random start, a model of several layers may
        answer the hardest negatives by making all scores equal. None is "bce" for medres, and "avg"
        for other models.
    num_negatives: drawn for the users of a step together; None is all items where there are at most
        50,000, else 1,000.
    history: what is read of a user: the events before the positives, or others than them, for a log
        without order; None is what the model's own setting says, "before" where it has none.
    """

    k: int = Field(default=10, ge=1)
    form: PapkForm = "ramp"
    warmup_epochs: int = Field(default=2, ge=0)
    warmup: Literal["avg", "bce"] | None = None
    num_negatives: int | None = Field(default=None, ge=1)
    history: Literal["before", "others"] | None = None


def papk_loss(
    positives: Tensor,
    negatives: Tensor,
    k: int,
    *,
    form: PapkForm = "ramp",
    is_positive: Tensor | None = None,
    is_negative: Tensor | None = None,
) -> Tensor:
    """Return the surrogate of each user [B]; 0 for a user without positives or without negatives.

    Args:
        positives: [B, P], their scores. negatives: [B, N].
        is_positive: [B, P], which of them are not padding; None is all. is_negative: [B, N].

    >>> positives, negatives = torch.tensor([[0.9, 0.4, -0.1]]), torch.tensor([[1.2, 0.3, -0.5]])
    >>> [round(float(papk_loss(positives, negatives, 2, form=form)), 6) for form in FORMS[:3]]
    [1.1, 1.35, 1.6]
    """
    high, is_high = _choose(positives, is_positive, None if form == "avg" else k, form == "max")
    top, is_top = _choose(negatives, is_negative, k, False)
    rows, columns = is_high.nonzero(as_tuple=True)  # few users have as many positives as the most
    gaps = top[rows] - high[rows, columns][:, None]  # [positives of all users, K]
    costs = F.softplus(gaps) if form == "logistic" else (1 + gaps).clamp(min=0)
    if not is_top.all():
        costs = costs.masked_fill(~is_top[rows], 0.0)
    sums = costs.new_zeros(len(high)).index_add(0, rows, costs.sum(dim=1))
    return sums / (is_high.sum(1) * is_top.sum(1)).clamp(min=1)


def _choose(
    scores: Tensor, is_real: Tensor | None, count: int | None, smallest: bool
) -> tuple[Tensor, Tensor]:
    """Return the largest or smallest real scores of each row [B, n], and which of them are real."""
    if is_real is None:
        is_real = torch.ones_like(scores, dtype=torch.bool)
    if count is None or (count >= scores.shape[1] and not smallest and is_real.all()):
        return scores, is_real
    out = torch.inf if smallest else -torch.inf
    keys = scores.detach().masked_fill(~is_real, out)
    places = keys.topk(min(count, scores.shape[1]), dim=1, largest=not smallest).indices
    return scores.gather(1, places), is_real.gather(1, places)
