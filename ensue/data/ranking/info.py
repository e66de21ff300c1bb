"""What dataset.json says of a ranking dataset."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from ensue.config import Config
from ensue.data.feature_info import FeatureInfo
from ensue.data.ranking.schema import RankingColumn, RankingKind, RankingSchema, Task, TaskKind

FORMAT = 1


class RankingColumnInfo(Config):
    """A feature as it was read and is stored.

    name, kind, size, vocabulary: see `ensue.data.ranking.schema.RankingColumn`.
    table: where it is from: "rows", the table of "items" or of "users", or the "log", for the items
        of a user before the row.
    sources: columns of the input; several make one vector.
    separator: what splits text into values or numbers, see FeatureInfo.
    log: whether a number x became sign(x) log(1 + |x|) before it was standardized.
    mean, deviation: of a number, after `log`, over the training rows that have one; what is stored
        is (number - mean) / deviation.
    missing: share of the training rows that have no value.
    reason: why the column is of this kind.
    """

    name: str
    kind: RankingKind
    size: int
    vocabulary: str = ""
    table: Literal["rows", "items", "users", "log"] = "rows"
    sources: list[str]
    separator: str | None = None
    log: bool = False
    mean: float = 0.0
    deviation: float = 1.0
    missing: float = 0.0
    reason: str = ""

    @property
    def column(self) -> RankingColumn:
        """The column as a model sees it."""
        return RankingColumn(self.name, self.kind, self.size, self.vocabulary)

    def is_in(self, columns: Collection[str]) -> bool:
        """Tell whether columns of an input hold the feature, by its name or by its sources."""
        return self.name in columns or all(source in columns for source in self.sources)

    @property
    def feature(self) -> FeatureInfo:
        """What is needed to read raw values; a history is read as a bag is."""
        return FeatureInfo(
            name=self.name,
            kind="multi" if self.kind == "history" else self.kind,
            size=self.size,
            sources=self.sources,
            separator=self.separator,
        )


class PartLabels(Config):
    """The labels of a part: how many rows have one, and their mean (None of none)."""

    labeled: int
    mean: float | None


class TaskInfo(Config):
    """A task: the label is the number in `column`, or whether it compares as told.

    comparison: ">=4" and the like, "" for the number itself.
    weight: the column of its weights; None is 1 for every row.
    labels: of each part; the mean of a binary label is the share of positives.
    reason: why the task is of this kind.
    """

    name: str
    kind: TaskKind
    column: str
    comparison: str = ""
    weight: str | None = None
    labels: dict[str, PartLabels]
    reason: str = ""


class RankingInfo(Config):
    """The contents of dataset.json of a ranking dataset.

    parts: the first row of each part, and the one behind its last.
    counts: rows of each part and in all.
    vocabularies: name -> number of values, in the order of their files.
    user, item, time: columns of the input, where there are any; group: what `groups` numbers.
    history_length: the largest number of values that a history holds.
    history_where: which rows count as events of a history; "" is all.
    unused: column of the input -> why it is no feature.
    hash: SHA-256 of the content.
    """

    kind: Literal["ranking"] = "ranking"
    format: int = FORMAT
    name: str
    sources: list[str]
    parts: dict[str, tuple[int, int]]
    counts: dict[str, int]
    vocabularies: dict[str, int]
    columns: list[RankingColumnInfo]
    tasks: list[TaskInfo]
    user: str | None = None
    item: str | None = None
    time: str | None = None
    group: str | None = None
    history_length: int = 0
    history_where: str = ""
    split: dict[str, Any]
    unused: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    hash: str

    @property
    def schema_of_rows(self) -> RankingSchema:
        """The columns and tasks as a model sees them."""
        return RankingSchema(
            tuple(info.column for info in self.columns),
            tuple(Task(info.name, info.kind) for info in self.tasks),
        )
