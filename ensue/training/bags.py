"""Objectives of users and their bags of distinct items; that of Mult-VAE among them.

Mult-VAE makes the bag out of a noisy view of itself (Liang et al., WWW 2018, arXiv:1802.05814).
Shapes: B batch, S items in a batch of bags, I items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensue.data.histories import Histories
from ensue.losses.variational import gaussian_divergence, multinomial_loss
from ensue.models.base import Model
from ensue.models.baselines.mult_vae import MultVAE
from ensue.nn.jagged import take_rows
from ensue.training.objective import Batch, Objective


class UserObjective(Objective):
    """Batches of users with their distinct items. An example is a user who has an item.

    num_batches: of an epoch.
    """

    def __init__(self, model: Model, histories: Histories, *, batch_size: int, seed: int) -> None:
        offsets, items = histories.distinct_items(model.num_items)
        self._offsets, self._items = torch.from_numpy(offsets), torch.from_numpy(items)
        self._users = torch.from_numpy(np.flatnonzero(np.diff(offsets)))
        super().__init__(len(self._users), seed=seed)
        self.batch_size = batch_size
        self.num_batches = -(-self.num_examples // batch_size)

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield users [B], items [S], offsets [B + 1], and what the objective adds to them."""
        order = torch.randperm(self.num_examples, generator=self.generator(epoch))
        batches = torch.split(self._users[order], self.batch_size)
        for number in range(first, len(batches)):
            users = batches[number]
            positions, _ = take_rows(self._offsets, users)
            lengths = self._offsets[users + 1] - self._offsets[users]
            offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            yield (users, self._items[positions].long(), offsets, self.extra(epoch, number))

    @abstractmethod
    def extra(self, epoch: int, number: int) -> Tensor:
        """Return what a batch of this number holds beside users and items."""


class BagObjective(UserObjective):
    """Likelihood of the distinct items of a user, less beta times the distance from the prior."""

    def __init__(self, model: MultVAE, histories: Histories, *, batch_size: int, seed: int) -> None:
        super().__init__(model, histories, batch_size=batch_size, seed=seed)
        self.config = model.config

    def extra(self, epoch: int, number: int) -> Tensor:
        """Return beta [1]."""
        return torch.tensor([self.config.beta((epoch - 1) * self.num_batches + number)])

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean over the users of the negative of the bound, a scalar."""
        _, items, offsets, beta = batch
        mean, log_variance = model.encode(items, offsets)
        deviation = torch.exp(0.5 * log_variance)
        queries = model.decode(mean + deviation * torch.randn_like(deviation))
        lengths = offsets.diff().to(beta.dtype)
        weights = lengths.reciprocal() if self.config.loss == "mean" else torch.ones_like(lengths)
        table, bias = model.item_table()
        likelihood = multinomial_loss(
            queries, table, bias, items, offsets, weights=weights / len(lengths)
        )
        return likelihood + (beta * gaussian_divergence(mean, log_variance)).mean()
