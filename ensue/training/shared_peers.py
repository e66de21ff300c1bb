"""What the training loop asks of the other workers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ensue.distributed.items import SharedItems
from ensue.distributed.ranker import SharedRanker
from ensue.optim.clippy import Clippy
from ensue.training.optimizers import is_table
from ensue.training.peers import Wishes

SharedModel = SharedRanker | SharedItems


class WorkerPeers:
    """The other workers of a model, told to the loop with the dense gradients.

    is_alone: there is no other. is_first: this one writes the log and shows progress.
    """

    def __init__(self, ranker: SharedModel) -> None:
        self._ranker = ranker
        self.is_alone = ranker.workers.size == 1
        self.is_first = ranker.workers.rank == 0

    def seed(self, seed: int) -> int:
        """Return the seed of this worker: rows that are its own are not drawn for as others' are.

        Where each computes all rows, all draw the same.
        """
        if self._ranker.is_redundant:
            return seed
        return seed + self._ranker.workers.rank

    def combine(self, losses: Tensor, wishes: Wishes) -> tuple[Tensor, Wishes]:
        """Add up gradients, losses [n] and wishes after a backward pass, and return the latter."""
        own = torch.cat([losses, losses.new_tensor([float(wish) for wish in wishes])])
        summed = self._ranker.sum_gradients_(own)
        stop, save = (bool(wish > 0) for wish in summed[len(losses) :].tolist())
        return summed[: len(losses)], wishes._replace(stop=stop, save=save)

    def gradient_norm(self) -> Tensor | None:
        """Return the norm of the whole gradient; None of ranking models, which are not clipped."""
        return self._ranker.gradient_norm() if isinstance(self._ranker, SharedItems) else None

    def divide_(self, optimizer: torch.optim.Optimizer) -> None:
        """Have a step that is held back be held back alike in all pieces of a tensor.

        Others move each element by itself, and tables are left to such a step.
        """
        if self.is_alone or not isinstance(optimizer, Clippy):
            return
        parameters = dict(self._ranker.model.named_parameters())
        divided = [parameters[name] for name in divided_layers(self._ranker)]
        optimizer.divide_(divided, self._least)

    def named(self, model: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Return the parameters by the names that they have in the model itself."""
        return self._ranker.model.named_parameters()

    def _least(self, factor: Tensor) -> Tensor:
        return self._ranker.workers.all_reduce_(factor, purpose="dense", op="min")


def divided_layers(ranker: SharedModel) -> list[str]:
    """Return the names of parameters, other than tables, that workers have pieces of."""
    return [name for name, _ in ranker.model.named_parameters() if _is_divided(name, ranker)]


def _is_divided(name: str, ranker: SharedModel) -> bool:
    return name in ranker.pieces and not is_table(name)
