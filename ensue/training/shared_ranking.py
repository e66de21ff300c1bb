"""The objective of ranking models that several workers train together.

A worker reads rows of its own of each batch. Losses are means over the rows of all, so that the
sums of losses and gradients are those of one process.
Shapes: b rows of this worker, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ensue.data.ranking.reader import RankingReader
from ensue.distributed.batch import SharedBatch
from ensue.distributed.ranker import SharedRanker
from ensue.losses.multitask import label_weights, task_losses
from ensue.training.objective import Batch
from ensue.training.ranking import RankingObjective


class SharedRankingObjective(RankingObjective):
    """All rows that the readers of all workers yield, against all their labels.

    Values are sent to those that have their rows when a batch is made: with `prefetch`, while the
    one before is computed.

    Args:
        reader: of this worker's rows; of all rows where each worker computes all.
    """

    def __init__(
        self,
        ranker: SharedRanker,
        reader: RankingReader,
        loss_weights: Sequence[float],
        *,
        seed: int,
    ) -> None:
        super().__init__(reader, ranker.schema, loss_weights, seed=seed)
        self._ranker = ranker

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the tensors of the batches first, first + 1, ... of an epoch."""
        rows = enumerate(self._reader.epoch(epoch, first=first), start=first)
        for number, batch in rows:
            total = self._reader.batch_rows(number)
            weights = label_weights(batch.labels, batch.weights).sum(dim=0, dtype=torch.float64)
            weights = self._ranker.sum_ahead(weights)
            shared = self._ranker.share_own(batch, total)
            yield [torch.tensor(total), weights, *shared.tensors()]

    def count(self, batch: Batch) -> int:
        """Return the number of rows of all workers in a batch."""
        return int(batch[0])

    def task_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return this worker's part of the weighted mean loss of each task [M]."""
        _, total, *tensors = batch
        rows = SharedBatch.from_tensors(tensors, self._schema)
        losses = task_losses(model(rows), rows.labels, rows.weights, self._kinds)
        own = label_weights(rows.labels, rows.weights).sum(dim=0, dtype=torch.float64)
        losses = losses * (own / torch.where(total > 0, total, 1.0)).to(losses)
        return self._weighted(losses)

    def state(self) -> dict[str, Tensor]:
        """Return what the log will say of the epoch so far, the same on all workers."""
        return {**super().state(), "task_loss_sums": self._total_sums()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take what `state` returned: one worker has the sums of all."""
        super().load_state(tensors)
        if self._ranker.workers.rank and not self._ranker.is_redundant:
            self._sums.zero_()

    def end_epoch(self) -> dict[str, object]:
        """Return the mean loss of each task over the batches of the epoch."""
        self._sums = self._total_sums()
        return super().end_epoch()

    def _total_sums(self) -> Tensor:
        """Return the sums of the losses of all workers [M]."""
        if self._ranker.is_redundant:
            return self._sums
        return self._ranker.workers.all_reduce_(self._sums.clone(), purpose="other")
