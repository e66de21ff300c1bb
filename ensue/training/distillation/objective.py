"""A student's own objective, with what a teacher says about each query beside it.

Shapes: S queries of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.training.objective import Batch, Objective, QueryObjective


class TeacherTerm(Protocol):
    """What distillation adds to, or puts in place of, the student's loss.

    num_tensors: that `tensors` returns.
    """

    num_tensors: int

    def tensors(
        self, rows: NDArray[np.int64], epoch: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Return what the loss needs of the teacher for the queries before `rows` [S]."""

    def loss(
        self,
        model: Any,
        base: QueryObjective,
        queries: Tensor,
        batch: Batch,
        tensors: Batch,
    ) -> Tensor:
        """Return the mean loss of queries [S, D] of a batch of `base`, a scalar."""


class DistillationObjective(Objective):
    """The batches of a student's objective, each with the teacher's answers to its queries."""

    def __init__(self, base: QueryObjective, term: TeacherTerm, *, seed: int) -> None:
        super().__init__(base.num_examples, seed=seed)
        self._base, self._term = base, term

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of the student's objective, the tensors of the teacher behind."""
        for number, batch in enumerate(self._base.batches(epoch, first=first), start=first):
            generator = self.generator(epoch, number + 1, 1)
            rows = self._base.rows(batch).numpy()
            yield [*batch, *self._term.tensors(rows, epoch, generator)]

    def count(self, batch: Batch) -> int:
        """Return the number of examples in a batch, as the student's objective counts them."""
        return self._base.count(batch)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        own, tensors = batch[: -self._term.num_tensors], batch[-self._term.num_tensors :]
        queries = self._base.queries(model, own)
        return self._term.loss(model, self._base, queries, own, tensors)
