"""Activations by name; all are monotone, which the convolutions rely on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["identity", "sigmoid", "tanh", "relu"]


def identity(x: Tensor) -> Tensor:
    """Return x."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": identity,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
