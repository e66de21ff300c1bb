"""The other processes of a training, as far as the loop has to know them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Wishes(NamedTuple):
    """What a process would do after a step; with others, all of them do it.

    stop: write a checkpoint and end. save: write a checkpoint.
    """

    stop: bool
    save: bool


NO_WISHES = Wishes(stop=False, save=False)


class Peers(Protocol):
    """The processes that train one model together.

    is_alone: there is no other. is_first: this one writes the log and shows progress.
    """

    is_alone: bool
    is_first: bool

    def seed(self, seed: int) -> int:
        """Return the seed of this process for what is drawn in its own rows."""

    def combine(self, losses: Tensor, wishes: Wishes) -> tuple[Tensor, Wishes]:
        """Add up gradients, losses [n] and wishes after a backward pass, and return the latter."""

    def gradient_norm(self) -> Tensor | None:
        """Return the norm of the whole gradient behind `combine`; None where all of it is here."""

    def divide_(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell the optimizer of what parameters this process has pieces."""

    def named(self, model: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Return the parameters by the names that they have in a training of one process."""


class Alone:
    """No other process."""

    is_alone = True
    is_first = True

    def seed(self, seed: int) -> int:
        """Return the seed."""
        return seed

    def combine(self, losses: Tensor, wishes: Wishes) -> tuple[Tensor, Wishes]:
        """Return losses and wishes as they are."""
        return losses, wishes

    def gradient_norm(self) -> Tensor | None:
        """Return None: all of the gradient is here."""
        return None

    def divide_(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the optimizer as it is."""

    def named(self, model: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Return the parameters by name."""
        return model.named_parameters()
