"""Objectives of one interaction at a time, against sampled items that the user does not have.

Shapes: B batch, N negatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories
from ensue.data.negatives import UniformNegatives
from ensue.losses.metric import margin_loss, rank_weights
from ensue.losses.pairwise import bpr_loss
from ensue.losses.pointwise import negative_loss, positive_loss
from ensue.losses.reduce import masked_mean
from ensue.models.base import Model
from ensue.models.baselines.bpr import BPR
from ensue.models.baselines.cml import CML
from ensue.models.baselines.neumf import NeuMF
from ensue.models.graph.lightgcn import LightGCN
from ensue.training.objective import Batch, ExampleObjective


class SampledItemsObjective(ExampleObjective):
    """Each interaction, and N items drawn uniformly of those that its user does not have."""

    def __init__(
        self, model: Model, histories: Histories, *, num_negatives: int, batch_size: int, seed: int
    ) -> None:
        self._users, self._items = histories.flat()
        super().__init__(len(self._users), batch_size=batch_size, seed=seed)
        model.observe_(histories)
        self._negatives = UniformNegatives(histories, model.num_items)
        self._num_negatives = num_negatives

    def make(self, index: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return users [B] and candidates [B, 1 + N], the positive first.

        Negatives are 0 where the user has every item.
        """
        users = self._users[index]
        negatives = self._negatives.draw(users, self._num_negatives, generator)
        positives = torch.from_numpy(self._items[index].astype(np.int64))
        return torch.from_numpy(users), torch.cat([positives[:, None], negatives], dim=1)


class PairObjective(SampledItemsObjective):
    """BPR's: each interaction against one item (Rendle et al. 2009)."""

    def __init__(
        self, model: BPR | LightGCN, histories: Histories, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(model, histories, num_negatives=1, batch_size=batch_size, seed=seed)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean pairwise loss; users who have every item are left out."""
        users, candidates = batch
        logits = model.logits(users, candidates)
        return masked_mean(bpr_loss(logits[:, 0], logits[:, 1]), candidates[:, 1] != 0)


class BinaryObjective(SampledItemsObjective):
    """NeuMF's: whether an item is that of the interaction or a sampled one (He et al. 2017)."""

    def __init__(self, model: NeuMF, histories: Histories, *, batch_size: int, seed: int) -> None:
        number = model.config.num_negatives
        super().__init__(model, histories, num_negatives=number, batch_size=batch_size, seed=seed)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean binary cross-entropy over all candidates."""
        users, candidates = batch
        logits = model.logits(users, candidates)
        losses = torch.cat([positive_loss(logits[:, :1]), negative_loss(logits[:, 1:])], dim=1)
        return masked_mean(losses, candidates != 0)


class MetricObjective(SampledItemsObjective):
    """CML's: each interaction against the nearest of N items, by a margin (Hsieh et al. 2017)."""

    def __init__(self, model: CML, histories: Histories, *, batch_size: int, seed: int) -> None:
        self.config = model.config
        number = model.config.num_negatives
        super().__init__(model, histories, num_negatives=number, batch_size=batch_size, seed=seed)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean weighted loss; users who have every item are left out."""
        users, candidates = batch
        margin = self.config.margin
        model.clip_()  # what the step before moved out of the ball
        is_real = candidates[:, 1:] != 0
        with torch.no_grad():  # only the nearest one of the negatives has a gradient
            distances = model.distances(users, candidates)
            nearest = 1 + distances[:, 1:].masked_fill(~is_real, torch.inf).argmin(dim=1)
            weights = torch.ones_like(distances[:, 0])
            if self.config.rank_weight:
                weights = rank_weights(
                    distances[:, 0],
                    distances[:, 1:],
                    is_real,
                    margin=margin,
                    num_items=model.num_items,
                )
        chosen = candidates.gather(1, nearest[:, None])
        pair = model.distances(users, torch.cat([candidates[:, :1], chosen], dim=1))
        losses = weights * margin_loss(pair[:, 0], pair[:, 1], margin=margin)
        return masked_mean(losses, is_real.any(dim=1))
