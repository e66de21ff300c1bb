"""The toy of three real users and one fake user, with its loss written densely."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensue.audit.unroll import AutogradProblem

REAL = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.float64)
FAKE = torch.tensor([[0, 1, 0, 1]], dtype=torch.float64)
TARGET = 2
RATE = 0.05
WEIGHT = 3.0


def toy_start(num_users: int = 4, num_items: int = 4) -> list[Tensor]:
    """Return the users [N, 2] and items [I, 2] before the first step."""
    users, items, width = torch.arange(num_users), torch.arange(num_items), torch.arange(2)
    return [
        0.3 * torch.cos(1.0 + users[:, None] + 2 * width.double()),
        0.3 * torch.sin(1.0 + 2 * items[:, None] + width.double()),
    ]


def dense_loss(
    parameters: Sequence[Tensor], clicks: Tensor, weights: Tensor | None, weight: float = WEIGHT
) -> Tensor:
    """Return the weighted squared error; weights of None depend on the clicks."""
    users, items = parameters
    if weights is None:
        weights = 1 + (weight - 1) * clicks
    return (weights * (clicks - users @ items.T).square()).sum()


def dense_adversarial_loss(parameters: Sequence[Tensor], num_real: int = 3) -> Tensor:
    users, items = parameters
    return -torch.log_softmax(users[:num_real] @ items.T, dim=1)[:, TARGET].sum()


class ToyProblem(AutogradProblem):
    """Full batch, the loss differentiated by autograd."""

    def __init__(
        self,
        fakes: Tensor = FAKE,
        *,
        num_steps: int = 6,
        is_relaxed: bool = False,
        weights_of: Tensor | None = None,
        real: Tensor = REAL,
        start: Sequence[Tensor] | None = None,
    ) -> None:
        """weights_of: the fakes that constant weights are of; None has `fakes`."""
        self.fakes, self.num_steps, self.is_relaxed, self.real = fakes, num_steps, is_relaxed, real
        self._weights_of = fakes if weights_of is None else weights_of
        self._start = start or toy_start(len(real) + len(fakes), real.shape[1])

    def start(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self._start]

    def loss(self, step: int, parameters: Sequence[Tensor], fakes: Tensor) -> Tensor:
        clicks = torch.cat([self.real, fakes])
        known = torch.cat([self.real, self._weights_of])
        weights = None if self.is_relaxed else 1 + (WEIGHT - 1) * known
        return dense_loss(parameters, clicks, weights)
