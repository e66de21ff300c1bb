"""What an epoch is made of: its batches, and the loss of one.

An objective draws its randomness from (seed, epoch, chunk) alone, so any batch of any epoch can be
made again without the ones before it: that is what lets an interrupted run resume inside an epoch.
Shapes: B batch, L window length, T targets, N negatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories
from ensue.data.negatives import UniformNegatives
from ensue.data.windows import Windows
from ensue.errors import DataError
from ensue.losses.pairwise import bpr_loss
from ensue.losses.pointwise import negative_loss, positive_loss
from ensue.losses.reduce import masked_mean, masked_sum
from ensue.models.base import Model
from ensue.models.baselines.bpr import BPR
from ensue.models.sequential.caser import Caser

CHUNK_BATCHES = 128  # batches made at a time: enough to amortize the indexing, little memory

Batch = Sequence[Tensor]


class Objective(ABC):
    """Shuffled examples without replacement, made into tensors a chunk of batches at a time."""

    def __init__(self, num_examples: int, *, batch_size: int, seed: int) -> None:
        if num_examples == 0:
            raise DataError("training needs at least one interaction; the training part has none.")
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.num_batches = -(-num_examples // batch_size)
        self._seed = seed

    @abstractmethod
    def make(self, index: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return the tensors of the examples `index` [n], each with n rows."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar whose gradient is followed."""

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches first, first + 1, ... of an epoch."""
        order = torch.randperm(self.num_examples, generator=self._generator(epoch)).numpy()
        span = CHUNK_BATCHES * self.batch_size
        for chunk in range(first // CHUNK_BATCHES, -(-self.num_batches // CHUNK_BATCHES)):
            index = order[chunk * span : (chunk + 1) * span]
            tensors = self.make(index, self._generator(epoch, chunk + 1))
            skipped = max(first - chunk * CHUNK_BATCHES, 0) * self.batch_size
            for start in range(skipped, len(index), self.batch_size):
                yield [tensor[start : start + self.batch_size] for tensor in tensors]

    def _generator(self, *key: int) -> torch.Generator:
        state = np.random.SeedSequence([self._seed, *key]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state) >> 1)


class WindowObjective(Objective):
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
        """Return users [B], windows [B, L] and candidates [B, T + N], targets first."""
        users = self._windows.users[index].astype(np.int64)
        windows, targets = self._windows.gather(index)
        negatives = self._negatives.draw(users, self._num_negatives, generator)
        candidates = torch.cat([torch.from_numpy(targets), negatives], dim=1)
        return torch.from_numpy(users), torch.from_numpy(windows).contiguous(), candidates

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the loss in the reduction that the model's config names."""
        users, windows, candidates = batch
        logits = model.logits(model(users, windows), candidates)
        is_real = candidates != 0
        positives = logits[:, : self._num_targets], is_real[:, : self._num_targets]
        negatives = logits[:, self._num_targets :], is_real[:, self._num_targets :]
        if self._reduction == "mean":
            return masked_mean(positive_loss(positives[0]), positives[1]) + masked_mean(
                negative_loss(negatives[0]), negatives[1]
            )
        total = masked_sum(positive_loss(positives[0]), positives[1]) + masked_sum(
            negative_loss(negatives[0]), negatives[1]
        )
        return total / len(users)


class PairObjective(Objective):
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


def make_objective(model: Model, histories: Histories, *, batch_size: int, seed: int) -> Objective:
    """Return the objective of a model that is trained by gradient steps."""
    if isinstance(model, Caser):
        return WindowObjective(model, histories, batch_size=batch_size, seed=seed)
    if isinstance(model, BPR):
        return PairObjective(model, histories, batch_size=batch_size, seed=seed)
    raise TypeError(f"{type(model).__name__} has no objective")
