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
from ensue.models.base import Model
from ensue.models.baselines.bpr import BPR
from ensue.models.baselines.cml import CML
from ensue.models.baselines.mult_vae import MultVAE
from ensue.models.baselines.neumf import NeuMF
from ensue.models.graph.lightgcn import LightGCN
from ensue.models.graph.medres import Medres
from ensue.models.retrieval.deep_retrieval import DeepRetrieval
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.caser import Caser
from ensue.nn.growing_items import see_items_
from ensue.training.bags import BagObjective
from ensue.training.lightgcn import GraphSoftmaxObjective
from ensue.training.medres import MedresObjective
from ensue.training.next_item import NextItemObjective
from ensue.training.objective import Batch, ExampleObjective, Objective, QueryObjective
from ensue.training.paths import PathObjective
from ensue.training.sampled_items import BinaryObjective, MetricObjective, PairObjective
from ensue.training.two_tower import TwoTowerObjective


class WindowObjective(ExampleObjective, QueryObjective):
    """Caser's: the T items after each window against sampled items (Tang and Wang 2018, Eq. 13)."""

    def __init__(self, model: Caser, histories: Histories, *, batch_size: int, seed: int) -> None:
        config = model.config
        self._windows = Windows(histories, length=config.window, num_targets=config.num_targets)
        super().__init__(len(self._windows), batch_size=batch_size, seed=seed)
        self._negatives = UniformNegatives(histories, model.num_items)
        self.num_targets = config.num_targets
        self._num_negatives = config.num_negatives or 3 * config.num_targets
        self.reduction = config.loss

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
        see_items_(model, windows, candidates[:, : self.num_targets])
        queries: Tensor = model(users, windows)
        return queries

    def query_loss(self, model: Any, queries: Tensor, batch: Batch) -> Tensor:
        """Return the loss in the reduction that the model's config names."""
        return candidate_bce(
            queries,
            model.output_embedding,
            model.output_bias,
            batch[2],
            num_targets=self.num_targets,
            reduction=self.reduction,
        )


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
    if isinstance(model, LightGCN) and model.config.loss == "softmax":
        return GraphSoftmaxObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, LightGCN):
        return PairObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, NeuMF):
        return BinaryObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, CML):
        return MetricObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, MultVAE):
        return BagObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, DeepRetrieval):
        return PathObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, Medres):
        return MedresObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, SequenceModel):
        return NextItemObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, TwoTower):
        return TwoTowerObjective(model, histories, batch_size=batch_size, seed=seed)
    raise TypeError(f"{type(model).__name__} has no objective")
