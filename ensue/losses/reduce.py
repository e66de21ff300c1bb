"""Reductions that know which entries are real."""

from __future__ import annotations

from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of `values` where `mask` is True; 0 when nothing is."""
    return (values * mask).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` is True; 0 when nothing is."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)
