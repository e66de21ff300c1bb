"""Settings of a growing table, and what is told of its changes.

Shapes: D width; R changed rows, N deleted ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ensue.config import Config
from ensue.nn.admission import Admission
from ensue.nn.hashing import StartName
from ensue.nn.row_rules import RowRule


class Expiry(Config):
    """When a row goes; by default none does.

    max_age: steps without a sight that a row survives.
    rare_count, rare_age: a row seen fewer than rare_count times survives rare_age of them.
    every: steps from one look for such rows to the next.
    """

    max_age: int | None = Field(default=None, ge=1)
    rare_count: int = Field(default=0, ge=0)
    rare_age: int = Field(default=1, ge=1)
    every: int = Field(default=1000, ge=1)

    @property
    def is_on(self) -> bool:
        """Whether rows can go at all."""
        return self.max_age is not None or self.rare_count > 0

    def is_over(self, ages: Tensor, counts: Tensor) -> Tensor:
        """Return which rows [R] go, by the steps since they were seen and how often they were."""
        is_over = (counts < self.rare_count) & (ages > self.rare_age)
        return is_over if self.max_age is None else is_over | (ages > self.max_age)


class TableConfig(Config):
    """How a table grows, shrinks and is trained.

    seed: with the id, all that a start value depends on.
    start, start_scale: how start values are spread; see `hashing.start_values`.
    slab_bits: 2 ** slab_bits rows are added at a time.
    """

    seed: int = Field(default=0, ge=0)
    start: StartName = "uniform"
    start_scale: float = Field(default=0.05, ge=0)
    admission: Admission = Admission()
    expiry: Expiry = Expiry()
    rule: RowRule = RowRule()
    slab_bits: int = Field(default=18, ge=0, le=30)


@dataclass(frozen=True)
class Changes:
    """What happened to a table after the step `since`: deletions first, then new weights.

    step: where the table stood. ids [R] int64, rows [R, D], deleted [N] int64.
    """

    since: int
    step: int
    ids: Tensor
    rows: Tensor
    deleted: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors, to be stored."""
        steps = torch.tensor([self.since, self.step])
        return {"steps": steps, "ids": self.ids, "rows": self.rows, "deleted": self.deleted}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Changes:
        """Return the changes of which these are the `tensors()`."""
        since, step = tensors["steps"].tolist()
        return cls(since, step, tensors["ids"], tensors["rows"], tensors["deleted"])
