"""Dropout with cheap noise: eight bits an element instead of a 64-bit random number.

Srivastava et al., JMLR 2014, with inverted scaling. The rate is rounded to a multiple of 1/256 and
the scale uses the rounded rate, so the expectation is exact; 0.5 is represented exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ensue.nn import cpu_kernels as kernels


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
        noise = self.noise(x)
        if kernels.can_run(x):
            out: Tensor = _Keep.apply(x, noise, self.threshold)  # type: ignore[no-untyped-call]
            return out
        is_kept = (noise >= self.threshold).view(x.shape)
        return x * is_kept * _scale(self.threshold)

    @property
    def scale(self) -> float:
        """The factor of what is kept, 1 / (1 - rate)."""
        return _scale(self.threshold)

    def noise(self, like: Tensor) -> Tensor:
        """Return a byte for each element of `like`, flat; elements below the threshold drop."""
        words = torch.empty((like.numel() + 7) // 8, dtype=torch.int64, device=like.device)
        return words.random_(-(2**63), None).view(torch.uint8)[: like.numel()]


def _scale(threshold: int) -> float:
    """Return 1 / (1 - rate)."""
    return 256 / (256 - threshold)


class _Keep(torch.autograd.Function):
    """x * scale where noise >= threshold, 0 elsewhere; the gradient goes the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Tensor, threshold: int) -> Tensor:
        ctx.noise, ctx.threshold = noise, threshold
        return _keep(x, noise, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _keep(grad, ctx.noise, ctx.threshold), None, None


def _keep(x: Tensor, noise: Tensor, threshold: int) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    values, noise_array, kept = kernels.arrays(x.reshape(-1), noise, out.view(-1))
    kernels.keep(values, noise_array, threshold, values.dtype.type(_scale(threshold)), kept)
    return out
