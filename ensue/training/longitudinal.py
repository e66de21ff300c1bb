"""The objective of LSSL and of what it is compared with: pairs of visits, each visit encoded once.

A visit is in several pairs, and often in several of a batch: it is encoded and decoded once, and
its error counts as often as it occurs. That is the same loss at a part of its cost.
Shapes: P pairs of a batch, N visits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ensue.config import Config
from ensue.data.longitudinal.measurements import Rows
from ensue.data.longitudinal.visits import Pairs
from ensue.errors import DataError
from ensue.training.objective import Batch, Objective


class PairsConfig(Config):
    """Which pairs of visits are trained on.

    min_gap: the smallest difference of their times, in the unit of the table; None is any later
        visit.
    balance: all "pairs" are drawn alike, so that an entity with V visits counts for V (V - 1) / 2;
        or all "entities" that have any are.
    pairs_per_epoch: at most so many, drawn anew in each epoch; None is all.
    validation_share: of the entities, which validate and are not trained on; the weights of the
        epoch with the least loss on their pairs are kept. 0 trains on all and keeps the last ones.
    """

    min_gap: float | None = Field(default=None, gt=0)
    balance: Literal["pairs", "entities"] = "pairs"
    pairs_per_epoch: int | None = Field(default=None, ge=1)
    validation_share: float = Field(default=0.0, ge=0, le=0.5)


class PairsObjective(Objective):
    """Batches of pairs, shuffled anew in each epoch; the numbers of visits are those of `rows`.

    Args:
        rows: the N measurements, on the device of the model.
    """

    def __init__(
        self, rows: Rows, pairs: Pairs, config: PairsConfig, *, batch_size: int, seed: int
    ) -> None:
        if len(pairs) == 0:
            raise DataError(
                "a direction of time needs entities with two visits that lie min_gap apart; there "
                f"are none at min_gap={config.min_gap}."
            )
        super().__init__(min(len(pairs), config.pairs_per_epoch or len(pairs)), seed=seed)
        self._rows, self._pairs, self._config = rows, pairs, config
        self._batch_size = batch_size
        self._sums: dict[str, Tensor] = {}

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches first, first + 1, ... of an epoch: [P, 2], the visits of pairs."""
        drawn = self._draw(epoch)
        for start in range(first * self._batch_size, len(drawn), self._batch_size):
            yield [torch.from_numpy(self._pairs.gather(drawn[start : start + self._batch_size]))]

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of the pairs, a scalar."""
        pairs = batch[0]
        visits, places = torch.unique(pairs, return_inverse=True)
        shares = torch.bincount(places.flatten(), minlength=len(visits)) / len(pairs)
        terms = model.losses(self._rows.take(visits), shares, places)
        for name, term in terms.items():
            before = self._sums.get(name, torch.zeros((), dtype=torch.float64, device=term.device))
            self._sums[name] = before + term.detach().double() * len(pairs)
        return torch.stack(list(terms.values())).sum()

    def end_epoch(self) -> dict[str, Any]:
        """Return the mean of each term of the loss."""
        means = {name: float(total) / self.num_examples for name, total in self._sums.items()}
        self._sums = {}
        return means

    def state(self) -> dict[str, Tensor]:
        """Return the sums of the terms so far in the epoch."""
        return dict(self._sums)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take what `state` returned."""
        self._sums = dict(tensors)

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of the pairs of an epoch, in the order of the training."""
        rng = np.random.default_rng(self.generator_state(epoch))
        if self._config.balance == "entities":
            bounds = self._pairs.of_entities()
            of = bounds[rng.integers(len(bounds), size=self.num_examples)]
            return rng.integers(of[:, 0], of[:, 1])
        if 4 * self.num_examples < len(self._pairs):  # some twice, for the sake of memory
            return rng.integers(len(self._pairs), size=self.num_examples)
        return rng.permutation(len(self._pairs))[: self.num_examples]
