"""Gates of a mixture: one number in (0, 1) for each expert, from what decides how far it counts.

Sigmoids, not a softmax: experts do not compete, and all of them may be open at a time.
Shapes: D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SigmoidGates(nn.Module):
    """sigmoid(s W + b) with a bias of zero at the start: every gate is half open."""

    def __init__(self, dim: int, num_experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, num_experts)
        nn.init.uniform_(self.linear.weight, -(dim**-0.5), dim**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, switch: Tensor) -> Tensor:
        """Return gates [..., E] of switches [..., D]."""
        return torch.sigmoid(self.linear(switch))
