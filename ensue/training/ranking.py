"""The objective of ranking models: the losses of all tasks over a stream of rows.

The order is that of time, shuffled within a window that moves on, as large rankers are trained
(Tang et al., KDD 2023, arXiv:2302.09178, section 2).
Shapes: B rows, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.reader import RankingReader
from ensue.data.ranking.schema import RankingSchema
from ensue.errors import ConfigError, did_you_mean
from ensue.losses.multitask import task_losses
from ensue.training.objective import Batch, MultitaskObjective


class StreamConfig(Config):
    """How the rows of a ranking dataset are read and weighed in training.

    window: rows are shuffled within a window of so many, which moves on in the order of time; 1 is
        that order itself, None shuffles all of them.
    task_weights: of the loss of each task, by name; 1 where nothing is said.
    """

    window: int | None = Field(default=None, ge=1)
    task_weights: dict[str, float] = Field(default_factory=dict)

    def weights_of(self, schema: RankingSchema) -> list[float]:
        """Return the weight of each task [M].

        Raises:
            ConfigError: a name is that of no task.
        """
        names = [task.name for task in schema.tasks]
        for name in self.task_weights:
            if name not in names:
                raise ConfigError(
                    f"task_weights are for tasks of the dataset; {name!r} is none."
                    + did_you_mean(name, names)
                )
        return [self.task_weights.get(name, 1.0) for name in names]


class RankingObjective(MultitaskObjective):
    """All rows that a reader yields, against all their labels; an example is a row.

    Args:
        loss_weights: what the mean loss of each task counts in the loss that is followed.
    """

    def __init__(
        self,
        reader: RankingReader,
        schema: RankingSchema,
        loss_weights: Sequence[float],
        *,
        seed: int,
    ) -> None:
        names = [task.name for task in schema.tasks]
        super().__init__(reader.num_rows, tasks=names, seed=seed)
        self._reader, self._schema, self._loss_weights = reader, schema, torch.tensor(loss_weights)
        self._sums = torch.zeros(len(names), dtype=torch.float64)
        self._steps = 0
        self._kinds = [task.kind for task in schema.tasks]

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the tensors of the batches first, first + 1, ... of an epoch."""
        for batch in self._reader.epoch(epoch, first=first):
            yield batch.tensors()

    def task_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted mean loss of each task [M]."""
        rows = RankingBatch.from_tensors(batch, self._schema)
        return self._weighted(task_losses(model(rows), rows.labels, rows.weights, self._kinds))

    def _weighted(self, losses: Tensor) -> Tensor:
        """Return losses [M] times their weights, and remember them for the log."""
        self._sums = self._sums.to(losses.device)
        self._sums += losses.detach()
        self._steps += 1
        return losses * self._loss_weights.to(losses)

    def end_epoch(self) -> dict[str, Any]:
        """Return the mean loss of each task over the batches of the epoch."""
        means = (self._sums / max(self._steps, 1)).tolist()
        self._sums.zero_()
        self._steps = 0
        return {"task_losses": dict(zip(self.tasks, means, strict=True))}

    def state(self) -> dict[str, Tensor]:
        """Return what the log will say of the epoch so far."""
        return {"task_loss_sums": self._sums, "task_loss_steps": torch.tensor(self._steps)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take what `state` returned."""
        self._sums = tensors["task_loss_sums"].clone()
        self._steps = int(tensors["task_loss_steps"])
