"""What every ranking model has: settings, the schema of its rows, and a prediction for each task.

A trunk makes one representation of a row that all tasks read; what stands behind it for each task
is a tower, in the simplest case a linear output.
Shapes: B rows, M tasks, H width of the representation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.errors import DataError
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.field_embedding import FieldEmbedding, HistoryPooling, TableChoice
from ensue.nn.perceptron import TaskTowers
from ensue.nn.table_config import TableConfig


class TablesConfig(Config):
    """What kind of table the values of columns have their rows in.

    min_count: a value that fewer training rows have is taken for unknown.
    growth: of a table that grows with the values it meets (`TableConfig`; {} for its defaults);
        None is a table with a row for each value of the dataset.
    """

    min_count: int = Field(default=1, ge=1)
    growth: TableConfig | None = None

    @model_validator(mode="after")
    def _one_count(self) -> TablesConfig:
        if self.growth is not None and self.min_count > 1:
            raise ValueError("takes min_count of static tables; set growth.admission.min_count")
        return self

    @property
    def tables(self) -> TableChoice:
        """The kind of table that rows are in."""
        return TableChoice(self.min_count, self.growth)


class FieldsConfig(TablesConfig):
    """How columns become vectors.

    dim: width of the vector of each column.
    history: histories are averaged, or attended to with the value that a row is about.
    """

    dim: int = Field(default=16, ge=1)
    history: HistoryPooling = "mean"


class DeepConfig(FieldsConfig):
    """Rectified layers behind the vectors.

    hidden: their widths.
    dropout: of what they give.
    """

    hidden: list[int] = Field(default_factory=lambda: [512, 256])
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("hidden", "bottom", "expert", "tower", check_fields=False)
    @classmethod
    def _positive(cls, value: list[int]) -> list[int]:
        if any(width < 1 for width in value):
            raise ValueError("must be widths of 1 or more")
        return value


class RankingModel(nn.Module, ABC):
    """Base of all ranking models. A model predicts; it does not train, read files or pick a device.

    Settings come as a config object, facts of the data as the schema. All that it learned is in its
    state_dict.

    output_shift, output_scale: [M], see `start_at_`.

    Raises:
        DataError: the schema has no column, or no task.
    """

    Config: ClassVar[type[Config]]
    output_shift: Tensor
    output_scale: Tensor

    def __init__(self, config: Any, *, schema: RankingSchema) -> None:
        super().__init__()
        if not schema.columns or not schema.tasks:
            raise DataError(
                "a ranking model needs a column to read and a task to predict; the dataset has "
                f"{len(schema.columns)} columns and {len(schema.tasks)} tasks."
            )
        self.config = config
        self.schema = schema
        num_tasks = len(schema.tasks)
        self.register_buffer("output_shift", torch.zeros(num_tasks))
        self.register_buffer("output_scale", torch.ones(num_tasks))

    @abstractmethod
    def outputs(self, batch: RankingBatch) -> Tensor:
        """Return [B, M], what `forward` shifts and scales."""

    def forward(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]: logits of binary tasks, values of regressions."""
        return self.outputs(batch) * self.output_scale + self.output_shift

    def start_at_(self, shift: Tensor, scale: Tensor) -> None:
        """Let outputs of 0 and 1 mean `shift` and `shift + scale` [M]; at first they are near 0.

        With log odds and means of the labels, and 1 and their deviations, a new model predicts the
        means, and a label in large units is learned as fast as one in small units.
        """
        self.output_shift.copy_(shift)
        self.output_scale.copy_(scale)

    def predict(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]: probabilities of a label of 1 for binary tasks, values of regressions."""
        predictions: Tensor = self(batch).clone()
        for number, task in enumerate(self.schema.tasks):
            if task.kind == "binary":
                predictions[:, number].sigmoid_()
        return predictions

    @property
    def reads_ids(self) -> bool:
        """Whether values are given as 64-bit ids, for tables that grow, in place of codes."""
        return bool(self.config.growth is not None)

    def num_parameters(self) -> int:
        """Return how many numbers are learned, those of the rows of growing tables too."""
        tables = [module for module in self.modules() if isinstance(module, DynamicEmbedding)]
        grown = sum(len(table) * table.dim for table in tables)
        return grown + sum(parameter.numel() for parameter in self.parameters())

    def field_embeddings(self) -> Iterator[FieldEmbedding]:
        """Yield every set of vectors that the model looks up."""
        return (module for module in self.modules() if isinstance(module, FieldEmbedding))

    def count_values_(self, counts: Mapping[str, Tensor]) -> None:
        """Take rare values for unknown, as min_count says; a stored model has that in its state.

        Args:
            counts: for each vocabulary, the number of training rows with each code [V + 1].

        Raises:
            DataError: there are no counts of a vocabulary, or not one for each value.
        """
        for fields in self.field_embeddings():
            fields.count_values_(counts)


class TrunkOutput(NamedTuple):
    """A representation [B, H], and what is added to the outputs of tasks [B, M], if anything."""

    hidden: Tensor
    logits: Tensor | None = None


class Trunk(nn.Module, ABC):
    """What all tasks read.

    width: H of the representation.
    """

    Config: ClassVar[type[Config]]
    width: int

    def __init__(self, config: Any, *, schema: RankingSchema) -> None:
        """Make the trunk that a config of its class describes."""
        super().__init__()

    @abstractmethod
    def forward(self, batch: RankingBatch) -> TrunkOutput:
        """Return the representation of each row."""


class TrunkModel(RankingModel):
    """A trunk, and a linear output for each task."""

    trunk_type: ClassVar[type[Trunk]]

    def __init__(self, config: Any, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.trunk = self.trunk_type(config, schema=schema)
        self.heads = TaskTowers(self.trunk.width, (), num_tasks=len(schema.tasks))

    def outputs(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]."""
        out: TrunkOutput = self.trunk(batch)
        return add_logits(self.heads([out.hidden] * len(self.schema.tasks)), out)


def add_logits(outputs: Tensor, trunk: TrunkOutput) -> Tensor:
    """Return the outputs of towers [B, M], with what the trunk adds to them."""
    return outputs if trunk.logits is None else outputs + trunk.logits


def make_fields(config: FieldsConfig, schema: RankingSchema, *, dense: bool) -> FieldEmbedding:
    """Return the vectors of the columns; `dense` as in FieldEmbedding."""
    return FieldEmbedding(
        schema, config.dim, dense=dense, history=config.history, tables=config.tables
    )
