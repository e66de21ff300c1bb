"""Binary cross-entropy on logits, in the form that cannot overflow.

-log sigmoid(s) = softplus(-s) and -log(1 - sigmoid(s)) = softplus(s).
Shapes: any; the output is unreduced.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def positive_loss(logits: Tensor) -> Tensor:
    """Return -log sigmoid(logits), elementwise."""
    return F.softplus(-logits)


def negative_loss(logits: Tensor) -> Tensor:
    """Return -log(1 - sigmoid(logits)), elementwise."""
    return F.softplus(logits)
