"""What every model has: settings, sizes of the data, and scores for histories.

Shapes: B batch, T history length, I items, U users.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from ensue.config import Config
from ensue.data.context import ContextSchema
from ensue.data.feature_schema import FeatureSchema
from ensue.data.graphs import GraphSchema
from ensue.data.histories import Histories, HistoryBatch
from ensue.nn.table_config import TableConfig


class ItemsConfig(Config):
    """What kind of tables items have their rows in.

    growth: of tables that grow with the items they meet (`TableConfig`; {} for its defaults); None
        is a row for each item of the dataset.
    """

    growth: TableConfig | None = None


class Model(nn.Module, ABC):
    """Base of all models. A model scores; it does not train, read files or choose a device.

    Settings come as a config object, facts of the data (numbers of users and items) as arguments.
    All that it learned is in its state_dict, so a run stores it as safetensors.

    max_len: how many of the last items of a history it reads; None is all of them.
    context: the context columns that it reads beside them.
    features: the features of items and of users that it reads.
    graphs: the graphs between entities that it reads, interactions aside.
    """

    Config: ClassVar[type[Config]]
    max_len: int | None = None
    context: ContextSchema = ContextSchema()
    features: FeatureSchema = FeatureSchema()
    graphs: tuple[GraphSchema, ...] = ()

    def __init__(self, config: Any, *, num_users: int, num_items: int) -> None:
        super().__init__()
        self.config = config
        self.num_users = num_users
        self.num_items = num_items

    @abstractmethod
    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1], the caller's to write to; column 0 (padding) has no meaning."""

    def observe_(self, histories: Histories) -> None:
        """Take note of what a training reads off its histories before it begins; not all do."""

    def freeze_(self) -> None:
        """Compute ahead what answers need of weights that no longer change: those of a service."""


class FittedModel(Model):
    """A model computed from the histories in one go, without gradient steps.

    `fit_` registers its results as buffers; `load_state_dict(assign=True)` brings them back.
    """

    @abstractmethod
    def fit_(self, histories: Histories) -> None:
        """Compute the model from the histories."""
