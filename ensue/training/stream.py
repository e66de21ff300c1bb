"""Training on a synthetic stream: every batch is new, and is seen once.

Shapes: B batch, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.data.synthetic.stream import SyntheticStream
from ensue.training.objective import Batch, MultitaskObjective


class StreamObjective(MultitaskObjective):
    """Cross-entropy of binary tasks and squared error of the others, means over a batch.

    The model takes a `RankingBatch` and returns [B, M]: logits of binary tasks, values of others.
    An epoch goes on where the one before it ended.
    """

    def __init__(self, stream: SyntheticStream, *, num_steps: int, batch_size: int) -> None:
        tasks = stream.schema.tasks
        names = [task.name for task in tasks]
        super().__init__(num_steps * batch_size, tasks=names, seed=stream.seed)
        self._stream, self._num_steps, self._batch_size = stream, num_steps, batch_size
        self._is_binary = torch.tensor([task.kind == "binary" for task in tasks])

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches first, first + 1, ... of an epoch."""
        start = (epoch - 1) * self._num_steps
        for step in range(start + first, start + self._num_steps):
            yield self._stream.batch(step, self._batch_size).tensors()

    def task_losses(self, model: Any, batch: Batch) -> Tensor:
        """Return the loss of each task [M]."""
        rows = RankingBatch.from_tensors(batch, self._stream.schema)
        found = model(rows)
        entropy = F.binary_cross_entropy_with_logits(
            found, rows.labels.clamp(0, 1), reduction="none"
        )
        is_binary = self._is_binary.to(found.device)
        error = (found - rows.labels).square()
        return torch.where(is_binary, entropy, error).mean(dim=0)
