"""The objectives of the models, and which model has which.

Shapes: B batch, L window length, T targets, N negatives.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories
from ensue.data.negatives import UniformNegatives
from ensue.data.windows import Windows
from ensue.losses.candidates import candidate_bce
from ensue.losses.pairwise import bpr_loss
from ensue.losses.reduce import masked_mean
from ensue.models.base import Model
from ensue.models.baselines.bpr import BPR
from ensue.models.retrieval.deep_retrieval import DeepRetrieval
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.caser import Caser
from ensue.nn.growing_items import see_items_
from ensue.training.next_item import NextItemObjective
from ensue.training.objective import Batch, ExampleObjective, Objective, QueryObjective
from ensue.training.paths import PathObjective
from ensue.training.two_tower import TwoTowerObjective


class WindowObjective(ExampleObjective, QueryObjective):
    """Caser's: the T items after each window against sampled items (Tang and Wang 2018, Eq. 13)."""

    def __init__(self, model: Caser, histories: Histories, *, batch_size: int, seed: int) -> None:
        config = model.config
        self._windows = Windows(histories, length=config.window, num_targets=config.num_targets)
        super().__init__(len(self._windows), batch_size=batch_size, seed=seed)
        self._negatives = UniformNegatives(histories, model.num_items)
        self._num_targets = config.num_targets
        self._num_negatives = config.num_negatives or 3 * config.num_targets
        self._reduction = config.loss

    def make(self, index: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return users [B], windows [B, L], candidates [B, T + N], targets first, and rows [B]."""
        users = self._windows.users[index].astype(np.int64)
        windows, targets = self._windows.gather(index)
        negatives = self._negatives.draw(users, self._num_negatives, generator)
        candidates = torch.cat([torch.from_numpy(targets), negatives], dim=1)
        return (
            torch.from_numpy(users),
            torch.from_numpy(windows).contiguous(),
            candidates,
            torch.from_numpy(self._windows.rows(index)),
        )

    def rows(self, batch: Batch) -> Tensor:
        """Return the interaction of the first target of each window [B]."""
        return batch[3]

    def queries(self, model: Any, batch: Batch) -> Tensor:
        """Return the queries [B, D]."""
        users, windows, candidates, _ = batch
        see_items_(model, windows, candidates[:, : self._num_targets])
        queries: Tensor = model(users, windows)
        return queries

    def query_loss(self, model: Any, queries: Tensor, batch: Batch) -> Tensor:
        """Return the loss in the reduction that the model's config names."""
        return candidate_bce(
            queries,
            model.output_embedding,
            model.output_bias,
            batch[2],
            num_targets=self._num_targets,
            reduction=self._reduction,
        )


class PairObjective(ExampleObjective):
    """BPR's: each interaction against one sampled item of the same user (Rendle et al. 2009)."""

    def __init__(self, model: BPR, histories: Histories, *, batch_size: int, seed: int) -> None:
        self._users, self._items = histories.flat()
        super().__init__(len(self._users), batch_size=batch_size, seed=seed)
        self._negatives = UniformNegatives(histories, model.num_items)

    def make(self, index: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return users [B] and candidates [B, 2]: the positive, then the negative."""
        users = self._users[index]
        negatives = self._negatives.draw(users, 1, generator)
        positives = torch.from_numpy(self._items[index].astype(np.int64))
        return torch.from_numpy(users), torch.cat([positives[:, None], negatives], dim=1)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean pairwise loss; users who have every item are left out."""
        users, candidates = batch
        logits = model.logits(users, candidates)
        return masked_mean(bpr_loss(logits[:, 0], logits[:, 1]), candidates[:, 1] != 0)


class MakeObjective(Protocol):
    """A function that makes the objective of a new model."""

    def __call__(
        self, model: Model, histories: Histories, *, batch_size: int, seed: int
    ) -> Objective:
        """Return the objective of a model over the training histories."""


def make_objective(model: Model, histories: Histories, *, batch_size: int, seed: int) -> Objective:
    """Return the objective of a model that is trained by gradient steps."""
    if isinstance(model, Caser):
        return WindowObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, BPR):
        return PairObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, DeepRetrieval):
        return PathObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, SequenceModel):
        return NextItemObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, TwoTower):
        return TwoTowerObjective(model, histories, batch_size=batch_size, seed=seed)
    raise TypeError(f"{type(model).__name__} has no objective")
