"""Cross-entropy over the target and sampled items, corrected for how they were sampled.

Bengio and Senecal, IEEE Transactions on Neural Networks 2008: with m negatives drawn from q, the
logit of each candidate i loses log(m q_i), the logarithm of how often it is expected in the sample,
so that frequent negatives do not count more than they should. Applied to the target as well.
Shapes: S positions, N negatives shared by all positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_softmax_loss(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    is_hit: Tensor,
    positive_log_q: Tensor | None = None,
    negative_log_q: Tensor | None = None,
) -> Tensor:
    """Return the unreduced loss [S].

    With every other item as a negative exactly once and no correction, this is the full softmax. A
    position without a negative that counts has loss 0.

    Args:
        positive_logits: [S], of the targets.
        negative_logits: [S, N].
        is_hit: [S, N], True where the negative is the target itself: an accidental hit, left out.
        positive_log_q: [S], log(m q) of the targets; None does not correct.
        negative_log_q: [N], log(m q) of the negatives; None does not correct.
    """
    if negative_logits.shape[:1] != positive_logits.shape or is_hit.shape != negative_logits.shape:
        raise ValueError(
            "sampled_softmax_loss needs positive_logits [S], negative_logits [S, N] and is_hit "
            f"[S, N]; got {tuple(positive_logits.shape)}, {tuple(negative_logits.shape)} and "
            f"{tuple(is_hit.shape)}"
        )
    positives, negatives = positive_logits.float(), negative_logits.float()
    if positive_logits.dtype == torch.float64:
        positives, negatives = positive_logits, negative_logits
    if positive_log_q is not None:
        positives = positives - positive_log_q
    if negative_log_q is not None:
        negatives = negatives - negative_log_q
    negatives = negatives.masked_fill(is_hit, -torch.inf)
    # log(1 + sum_j exp(n_j - p)): stable, and 0 without negatives.
    return torch.nn.functional.softplus(torch.logsumexp(negatives, dim=1) - positives)
