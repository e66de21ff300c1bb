"""An evaluation whose predictions several workers make, each for whole batches in turn.

A batch is predicted by one worker as one process does it, so that the figures are the same to the
last bit. Labels and figures are the business of the first worker; the others wait for it.
Shapes: N workers, B rows of a batch, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ensue.data.ranking.batch import RankingBatch
from ensue.distributed.workers import Workers
from ensue.errors import RunError
from ensue.evaluation.evaluator import inference
from ensue.evaluation.ranking.evaluator import RankingProtocol, RankingRows, evaluate_ranking
from ensue.evaluation.ranking.result import RankingEvaluation


def evaluate_shared(
    model: nn.Module,
    data: RankingRows,
    bounds: tuple[int, int],
    protocol: RankingProtocol,
    workers: Workers,
    *,
    about: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> RankingEvaluation | None:
    """Return on the first worker what `evaluate_ranking` does with one process; None on the others.

    All workers call it with the same arguments.

    Args:
        model: on the CPU.

    Raises:
        RunError: another worker has failed.
    """
    if workers.size == 1:
        return evaluate_ranking(model, data, bounds, protocol, about=about, progress=progress)
    rounds = _Rounds(workers, protocol.batch_size, len(data.schema.tasks))
    with rounds.opened():
        if workers.rank > 0:
            _help(model, data, bounds, protocol, rounds)
            return None
        predict = _Predictions(model.eval(), rounds)
        return evaluate_ranking(predict, data, bounds, protocol, about=about, progress=progress)


class _Rounds:
    """The exchanges of an evaluation: in each, every worker gives the outputs for a batch.

    A worker that has failed says so in place of outputs, and so does the first in the end.
    """

    def __init__(self, workers: Workers, batch_size: int, num_tasks: int) -> None:
        self.workers = workers
        self._shape = (batch_size + 1, num_tasks)  # the first row says whether the worker goes on
        self._is_open, self._failure = True, ""

    def gather(self, own: Tensor | None) -> Tensor:
        """Return the outputs of all workers [N, B, M], given own ones; None takes no more part."""
        sent = torch.zeros(self._shape)
        if own is not None:
            sent[0] = 1
            sent[1 : 1 + len(own)] = own
        self._is_open = False  # others are gone if this fails
        found = self.workers.all_gather(sent, purpose="other").view(-1, *self._shape)
        left = (found[:, 0, 0] == 0).nonzero().flatten().tolist()
        self._is_open = not left
        if left and left[0] > 0:
            failures = self.workers.gather_objects(self._failure)
            if self.workers.rank == 0:
                raise RunError(f"worker {left[0]} could not predict its rows: {failures[left[0]]}")
        return found[:, 1:]

    @property
    def is_open(self) -> bool:
        """Whether all workers still take part."""
        return self._is_open

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Tell the others when this worker is through, or has failed."""
        try:
            yield
        except Exception as error:
            self._failure = str(error) or type(error).__name__
            raise
        finally:
            if self._is_open:
                self.gather(None)


class _Predictions:
    """The outputs for batches in their order, with the help of the other workers."""

    def __init__(self, model: nn.Module, rounds: _Rounds) -> None:
        self._model, self._rounds = model, rounds
        self._ready: list[Tensor] = []

    def __call__(self, batch: RankingBatch) -> Tensor:
        """Return the outputs for the next batch [B, M]."""
        if not self._ready:
            own = self._model(batch)
            self._ready = [own, *self._rounds.gather(own)[1:]]
        return self._ready.pop(0)[: len(batch)]


def _help(
    model: nn.Module,
    data: RankingRows,
    bounds: tuple[int, int],
    protocol: RankingProtocol,
    rounds: _Rounds,
) -> None:
    """Predict the batches that are this worker's, until the first one has all it needs."""
    first, end = bounds
    workers, size = rounds.workers, protocol.batch_size
    with inference(model):
        start = first + workers.rank * size
        while rounds.is_open:
            own = torch.zeros(0, len(data.schema.tasks))
            if start < end:
                index = slice(start, min(start + size, end))
                own = model(data.rows(index, as_ids=protocol.as_ids))
            rounds.gather(own)
            start += workers.size * size
