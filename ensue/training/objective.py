"""What the loop asks of a training objective, and objectives over a fixed set of examples.

An objective draws its randomness from (seed, epoch, chunk) alone, so any batch of any epoch can be
made again without the ones before it: that is what lets an interrupted run resume inside an epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.errors import DataError

CHUNK_BATCHES = 128  # batches made at a time: enough to amortize the indexing, little memory

Batch = Sequence[Tensor]


class Objective(ABC):
    """Batches of an epoch, and the loss of one.

    num_examples: that an epoch has, in the unit that `count` counts.
    keeps_last: whether the last weights count as the best, whatever validation says.
    """

    keeps_last: bool = False

    def __init__(self, num_examples: int, *, seed: int) -> None:
        if num_examples == 0:
            raise DataError("training needs at least one interaction; the training part has none.")
        self.num_examples = num_examples
        self._seed = seed

    @abstractmethod
    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches first, first + 1, ... of an epoch."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar whose gradient is followed."""

    def count(self, batch: Batch) -> int:
        """Return the number of examples in a batch."""
        return len(batch[0])

    def start_epoch(self, model: Any, epoch: int, *, is_resumed: bool) -> dict[str, Any]:
        """Prepare for an epoch, and return what the log says of that (JSON).

        Args:
            is_resumed: the epoch is gone on with; what was done to the model is in its state.
        """
        return {}

    def end_epoch(self) -> dict[str, Any]:
        """Return what the log says of the epoch that ends, beside the loss (JSON)."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what it gathers while training; a checkpoint holds it."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027  # most gather nothing
        """Take what `state` returned."""

    def generator_state(self, *key: int) -> int:
        """Return a 63-bit number made of the seed and the key, to seed a generator with."""
        state = np.random.SeedSequence([self._seed, *key]).generate_state(1, np.uint64)[0]
        return int(state) >> 1

    def generator(self, *key: int) -> torch.Generator:
        """Return the generator of a key, for example (epoch, chunk)."""
        return torch.Generator().manual_seed(self.generator_state(*key))


class MultitaskObjective(Objective):
    """An objective of several losses, whose sum is followed.

    seen_losses: of the batch whose loss was asked for last [M], detached, on their device.
    """

    seen_losses: Tensor

    def __init__(self, num_examples: int, *, tasks: Sequence[str], seed: int) -> None:
        super().__init__(num_examples, seed=seed)
        self.tasks = tuple(tasks)

    @abstractmethod
    def task_losses(self, model: Any, batch: Batch) -> Tensor:
        """Return the loss of each task [M], times its weight."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the sum of the losses of the tasks."""
        losses = self.task_losses(model, batch)
        self.seen_losses = losses.detach()
        return losses.sum()


class QueryObjective(Objective):
    """An objective of queries, vectors that are matched with the items of the output table.

    Each query precedes an interaction of the log, which is its first target. S queries of a batch.
    """

    @abstractmethod
    def rows(self, batch: Batch) -> Tensor:
        """Return the interaction that each query precedes, as a row of the log [S]."""

    @abstractmethod
    def queries(self, model: Any, batch: Batch) -> Tensor:
        """Return the queries [S, D]."""

    @abstractmethod
    def query_loss(self, model: Any, queries: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of the queries, a scalar."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        return self.query_loss(model, self.queries(model, batch), batch)


class ExampleObjective(Objective):
    """Shuffled examples without replacement, made into tensors a chunk of batches at a time."""

    def __init__(self, num_examples: int, *, batch_size: int, seed: int) -> None:
        super().__init__(num_examples, seed=seed)
        self.batch_size = batch_size
        self.num_batches = -(-num_examples // batch_size)

    @abstractmethod
    def make(self, index: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return the tensors of the examples `index` [n], each with n rows."""

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches first, first + 1, ... of an epoch."""
        order = torch.randperm(self.num_examples, generator=self.generator(epoch)).numpy()
        span = CHUNK_BATCHES * self.batch_size
        for chunk in range(first // CHUNK_BATCHES, -(-self.num_batches // CHUNK_BATCHES)):
            index = order[chunk * span : (chunk + 1) * span]
            tensors = self.make(index, self.generator(epoch, chunk + 1))
            skipped = max(first - chunk * CHUNK_BATCHES, 0) * self.batch_size
            for start in range(skipped, len(index), self.batch_size):
                yield [tensor[start : start + self.batch_size] for tensor in tensors]
