"""BPR: the probability that a positive is ranked above a negative.

Rendle et al., UAI 2009, arXiv:1205.2618.
Shapes: any that broadcast; the output is unreduced.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bpr_loss(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Return -log sigmoid(positive - negative), elementwise."""
    return F.softplus(negative_logits - positive_logits)
