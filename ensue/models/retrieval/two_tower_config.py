"""Settings of the two-tower model: its towers, its batches, and its self-supervision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ensue.config import Config

SSL = Literal["none", "cfm", "rfm", "no_complement", "dropout", "spread_out", "spread_out_square"]


class TowerConfig(Config):
    """The two towers.

    dim: width of the vectors that are matched.
    id_dim, feature_dim: width of the vectors of item ids, and of each feature.
    hidden: widths of the hidden layers of both towers; none is a linear map.
    ids: which sides read item ids; "query" has them in histories alone, so that an item is what its
        features say, and "none" nowhere.
    query: what is read of the items of a history: ids and features, or "ids" alone.
    share_tables: histories and items have one table for each feature.
    pooling: of the values of a bag.
    max_len: items of a history that are read; 1 goes from item to item.
    item_features, user_features: names of the features that are read; None is all of the dataset.
    """

    dim: int = Field(default=64, ge=1)
    id_dim: int = Field(default=64, ge=1)
    feature_dim: int = Field(default=32, ge=1)
    hidden: list[int] = Field(default_factory=list)
    ids: Literal["both", "query", "none"] = "both"
    query: Literal["items", "ids"] = "items"
    share_tables: bool = True
    pooling: Literal["mean", "sum"] = "mean"
    max_len: int = Field(default=50, ge=1)
    item_features: list[str] | None = None
    user_features: list[str] | None = None

    @field_validator("hidden")
    @classmethod
    def _positive(cls, value: list[int]) -> list[int]:
        if any(width < 1 for width in value):
            raise ValueError("must be widths of 1 or more")
        return value

    @model_validator(mode="after")
    def _history_is_read(self) -> TowerConfig:
        if self.ids == "none" and self.query == "ids":
            raise ValueError("query=ids needs ids in histories; ids is 'none'")
        return self


class SelfSupervisionConfig(TowerConfig):
    """A second task: to find one view of an item by another among those of other items.

    ssl: what the views hide: correlated features (cfm), a random half and its complement (rfm), two
        random halves (no_complement), or values of bags alone (dropout). "spread_out" tells items
        themselves apart, "spread_out_square" by squared cosines.
    alpha: weight of its loss.
    ssl_temperature: None is `temperature`.
    ssl_items: whether its items are drawn from the catalogue or are the targets of the batch.
    ssl_batch_size: items drawn for a batch; None is as many as targets.
    value_dropout: share of the values of bags that a view leaves out.
    num_correlated: features hidden with the seed; None is half of the features, rounded down, or
        none of two.
    information: how related features are: mutual information, normalized, or corrected for chance.
    feature_dropout: share of the features of items that are masked in the main task.
    """

    ssl: SSL = "none"
    alpha: float = Field(default=0.3, ge=0)
    ssl_temperature: float | None = Field(default=None, gt=0)
    ssl_items: Literal["uniform", "batch"] = "uniform"
    ssl_batch_size: int | None = Field(default=None, ge=2)
    value_dropout: float = Field(default=0.3, ge=0, lt=1)
    num_correlated: int | None = Field(default=None, ge=0)
    information: Literal["raw", "normalized", "corrected"] = "raw"
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)


class TwoTowerConfig(SelfSupervisionConfig):
    """The main task: the targets of a query among those of the whole batch.

    history: what a query reads: the events before its targets, or the user's other items in random
        order, for a log without order.
    num_targets: targets that share a query; a batch has batch_size // num_targets queries.
    temperature: that cosines are divided by.
    logq: whether logits are corrected for how often an item is in a batch, which is counted before
        the training or estimated in a stream.
    logq_rate: of the stream's moving mean.
    num_negatives: items of the whole catalogue beside the targets of a batch, drawn uniformly.
    hits: which candidates are no negatives: other items of the user ("known"), the targets of the
        query where they occur again ("target"), or none ("keep").
    """

    history: Literal["before", "others"] = "before"
    num_targets: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    logq: Literal["none", "exact", "streaming"] = "exact"
    logq_rate: float = Field(default=0.01, gt=0, le=1)
    num_negatives: int = Field(default=0, ge=0)
    hits: Literal["known", "target", "keep"] = "known"
