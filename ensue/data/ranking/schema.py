"""What the rows of a ranking dataset hold: columns of features, and tasks with a label each.

Shapes: V values of a vocabulary, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

RankingKind = Literal["categorical", "multi", "history", "numeric", "vector"]
TaskKind = Literal["binary", "regression"]


@dataclass(frozen=True)
class RankingColumn:
    """A feature of every row.

    kind: one value of a vocabulary; any number of them in no order; those of the past, oldest
        first; a number; or a dense vector.
    size: V, whose codes are 1..V (0 is missing or unknown); D of a vector; 1 for a number.
    vocabulary: name of the column whose values the codes stand for: its own, or the categorical one
        that a history is of; "" for numbers and vectors.
    """

    name: str
    kind: RankingKind
    size: int
    vocabulary: str = ""


@dataclass(frozen=True)
class Task:
    """What is predicted: a label of 0 or 1, or a number. A row may have no label."""

    name: str
    kind: TaskKind


@dataclass(frozen=True)
class RankingSchema:
    """The columns and the tasks of a ranking dataset, in their order."""

    columns: tuple[RankingColumn, ...]
    tasks: tuple[Task, ...]

    def of_kind(self, *kinds: RankingKind) -> tuple[RankingColumn, ...]:
        """Return the columns of these kinds, in their order."""
        return tuple(column for column in self.columns if column.kind in kinds)

    @property
    def vocabularies(self) -> dict[str, int]:
        """Number of values V of each vocabulary, in the order of the columns that have one."""
        return {c.vocabulary: c.size for c in self.columns if c.vocabulary}

    def to_dict(self) -> dict[str, Any]:
        """Return the schema, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RankingSchema:
        """Return the schema that `to_dict` stored."""
        return cls(
            tuple(RankingColumn(**column) for column in stored["columns"]),
            tuple(Task(**task) for task in stored["tasks"]),
        )
