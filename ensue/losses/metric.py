"""The loss of metric learning: a positive nearer than every item that it is compared with.

Hsieh et al., WWW 2017, Eq. 1 and 2; the weight is that of Weston et al., WARP, IJCAI 2011.
Shapes: B batch, N sampled negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor


def margin_loss(positive: Tensor, negative: Tensor, *, margin: float) -> Tensor:
    """Return max(0, margin + positive - negative), elementwise, of squared distances.

    >>> margin_loss(torch.tensor([0.5]), torch.tensor([0.75]), margin=1.0).tolist()
    [0.75]
    """
    return (margin + positive - negative).relu()


def rank_weights(
    positive: Tensor, negatives: Tensor, is_real: Tensor, *, margin: float, num_items: int
) -> Tensor:
    """Return log(1 + the estimated rank of each positive) [B].

    The rank is I times the share of the sampled negatives that lie inside the margin.

    Args:
        positive: squared distances [B]. negatives: [B, N].
        is_real: [B, N] bool, the negatives that count; where none does, the weight is 0.
    """
    is_inside = (margin + positive[:, None] > negatives) & is_real
    ranks = num_items * is_inside.sum(dim=1) // is_real.sum(dim=1).clamp(min=1)
    return torch.log1p(ranks.to(positive.dtype))
