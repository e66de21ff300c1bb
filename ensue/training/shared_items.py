"""The objectives of models of items that several workers train together.

All workers make the same batches, those of one process; each computes the loss of its share of
queries, divided by the numbers of the whole batch, so that the sums of losses and gradients over
workers are those of one process. The rows that a share needs are asked for when the batch is made:
with `prefetch`, while the one before is computed.
Shapes: N workers; B histories or windows of a batch, S positions, C candidates, T positions of a
history.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ensue.distributed.catalogue_softmax import catalogue_softmax_loss
from ensue.distributed.fetch import Wanted
from ensue.distributed.items import SharedItems
from ensue.distributed.uneven import share_of
from ensue.losses.candidates import candidate_bce, candidate_totals
from ensue.training.next_item import NextItemObjective
from ensue.training.objective import Batch, Objective
from ensue.training.objectives import WindowObjective

ObjectiveT = TypeVar("ObjectiveT", bound=Objective)


class Share(NamedTuple):
    """What a worker computes of a batch.

    tensors: of its part, and what the loss needs to know of the whole. ids: for each group of
    tables of the objective, those that are looked up in them.
    """

    tensors: Sequence[Tensor]
    ids: Sequence[Tensor]


class SharedObjective(Objective, Generic[ObjectiveT]):
    """The batches of an objective, of which each worker computes its share.

    groups: names of tables that are asked for the same rows.

    Args:
        whole: the objective of one process.
    """

    def __init__(self, shared: SharedItems, whole: ObjectiveT, groups: Sequence[Sequence[str]]):
        super().__init__(whole.num_examples, seed=0)  # it draws nothing itself
        self.keeps_last = whole.keeps_last
        self._shared, self._whole = shared, whole
        tables = shared.tables
        self.groups = [[name for name in group if name in tables] for group in groups]

    @abstractmethod
    def share(self, batch: Batch) -> Share:
        """Return this worker's share of a batch of one process, the same number of tensors always.

        A worker whose share is empty still has something to compute: all take part in every step.
        """

    @abstractmethod
    def share_loss(self, model: Any, tensors: Sequence[Tensor], total: int) -> Tensor:
        """Return a scalar; over workers they add up to the mean loss of the batch.

        Args:
            tensors: of the share. total: examples of the whole batch.
        """

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the number of examples, the rows to be borrowed for each group, and the share."""
        for batch in self._whole.batches(epoch, first=first):
            share = self.share(batch)
            wanted = [
                tensor
                for group, ids in zip(self.groups, share.ids, strict=True)
                if group
                for tensor in self._shared.tables[group[0]].ask(ids)
            ]
            yield [torch.tensor(self._whole.count(batch)), *wanted, *share.tensors]

    def count(self, batch: Batch) -> int:
        """Return the number of examples of all workers in a batch."""
        return int(batch[0])

    def loss(self, model: SharedItems, batch: Batch) -> Tensor:
        """Return this worker's part of the mean loss."""
        total, *tensors = batch
        for group in self.groups:
            if group:
                wanted, tensors = Wanted(*tensors[:3]), tensors[3:]
                model.borrow_(group, wanted)
        return self.share_loss(model.model, tensors, int(total))

    @property
    def workers(self) -> tuple[int, int]:
        """The rank of this worker, and N."""
        return self._shared.workers.rank, self._shared.workers.size


class SharedNextItem(SharedObjective[NextItemObjective]):
    """Every real position of a worker's histories against its next item."""

    def __init__(self, shared: SharedItems, whole: NextItemObjective) -> None:
        outputs = [name for name in ("own_output", "item_bias") if name in shared.tables]
        self._is_divided = bool(shared.tables) and whole.config.loss == "softmax"
        self._is_tied = "own_output" not in outputs
        super().__init__(shared, whole, [["item_embedding"], [] if self._is_divided else outputs])

    def share(self, batch: Batch) -> Share:
        """Return own histories as in a batch of one process, positions of all [N], targets [S].

        A worker without a history of its own reads the first one, without targets.
        """
        items, targets, negatives, rows, *context = batch
        rank, size = self.workers
        parts = [targets[share_of(len(targets), one, size)] for one in range(size)]
        counts = torch.tensor([int(part.count_nonzero()) for part in parts])
        start = int(counts[:rank].sum())
        positions = slice(start, start + int(counts[rank]))
        own = share_of(len(items), rank, size)
        own_targets = parts[rank]
        if own.start == own.stop:
            own, own_targets = slice(0, 1), torch.zeros_like(targets[:1])
        if negatives.dim() == 2:
            negatives = negatives[positions]
        candidates = torch.cat([own_targets.flatten(), negatives.flatten()])
        read = items[own].flatten()
        if self._is_tied and not self._is_divided:
            read = torch.cat([read, candidates])
        share = [items[own], own_targets, negatives, rows[positions], *(c[own] for c in context)]
        return Share([counts, targets[targets > 0], *share], [read, candidates])

    def share_loss(self, model: Any, tensors: Sequence[Tensor], total: int) -> Tensor:
        """Return the sum of the losses of the own positions over the number of all."""
        counts, targets, *own = tensors
        queries = self._whole.encode(model, own)
        if self._is_divided:
            table, bias = model.output_embedding, model.output_bias
            of_each = counts.tolist()
            return catalogue_softmax_loss(queries, table, targets, of_each, bias=bias) / total
        if not len(queries):
            return queries.sum()
        return self._whole.query_loss(model, queries, own) * (len(queries) / total)


class SharedWindows(SharedObjective[WindowObjective]):
    """Caser's windows of a worker, each against items drawn for it."""

    def __init__(self, shared: SharedItems, whole: WindowObjective) -> None:
        outputs = ["output_embedding", "output_bias"]
        super().__init__(shared, whole, [["user_embedding"], ["item_embedding"], outputs])

    def share(self, batch: Batch) -> Share:
        """Return own users, windows and candidates, and what the whole loss is divided by [2].

        A worker without a window of its own reads the first one, without candidates.
        """
        users, windows, candidates, _ = batch
        totals = candidate_totals(candidates, **self._terms)
        own = share_of(len(users), *self.workers)
        own_candidates = candidates[own]
        if own.start == own.stop:
            own, own_candidates = slice(0, 1), torch.zeros_like(candidates[:1])
        share = [totals, users[own], windows[own], own_candidates]
        return Share(share, [users[own] - 1, windows[own], own_candidates])

    def share_loss(self, model: Any, tensors: Sequence[Tensor], total: int) -> Tensor:
        """Return the terms of the own windows over the numbers of all."""
        totals, users, windows, candidates = tensors
        table, bias, codes = model.output_embedding, model.output_bias, candidates
        if self._shared.tables:
            table, codes = table.fetch(candidates)
            bias, _ = bias.fetch(candidates)
        queries = model(users, windows)
        return candidate_bce(queries, table, bias, codes, totals=totals, **self._terms)

    @property
    def _terms(self) -> dict[str, Any]:
        return {"num_targets": self._whole.num_targets, "reduction": self._whole.reduction}
