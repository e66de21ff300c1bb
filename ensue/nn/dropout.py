"""Dropout with cheap noise: eight bits an element instead of a 64-bit random number.

Srivastava et al., JMLR 2014, with inverted scaling. The rate is rounded to a multiple of 1/256 and
the scale uses the rounded rate, so the expectation is exact; 0.5 is represented exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zero each element with probability `rate`; noise comes from the device's default generator.

    Raises:
        ValueError: rate is not in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = round(rate * 256)
        if not 0 <= self.threshold < 256:
            raise ValueError(f"Dropout needs 0 <= rate < 1; got {rate}")

    def forward(self, x: Tensor) -> Tensor:
        """Return x with dropped and rescaled elements in training mode, x itself otherwise."""
        if not self.training or self.threshold == 0:
            return x
        num_words = (x.numel() + 7) // 8
        words = torch.empty(num_words, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None)
        noise = words.view(torch.uint8)[: x.numel()].view(x.shape)
        keep = (noise >= self.threshold).to(x.dtype)
        return x * keep.mul_(256 / (256 - self.threshold))
