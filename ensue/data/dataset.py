"""A prepared dataset on disk: memory-mapped interactions, id tables, and what was done to get them.

```
DIR/dataset.json         format version, columns, filters, split, counts, content hash
DIR/interactions.arrow   user, item int32; time int64 (microseconds); split uint8 (0 train,
                         1 validation, 2 test); labels float64; context columns float64, or int32
                         codes where the input has text (context_NAME.arrow holds the values).
                         Sorted by user, then split, then time, then input order.
                         One record batch, written by data.arrow_file: every column is one array.
DIR/users.arrow          raw_id, train_end, validation_end, end (row numbers), in dense-id order
DIR/items.arrow          raw_id and, where there is one, title, in dense-id order
DIR/item_features/       the features of items, see data.feature_store
DIR/user_features/       those of users
DIR/graphs/, entities/   edge tables between entities, see data.graph_store
```

A user's rows are contiguous and each of its splits is contiguous in them, so a history is two row
numbers. Dense ids start at 1: row r of users.arrow and items.arrow is id r + 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ensue.config import Config
from ensue.data.arrow_file import read_columns
from ensue.data.context import ContextColumn, ContextSchema
from ensue.data.feature_info import FeaturesInfo
from ensue.data.feature_store import Side, read_features, vocabulary_file
from ensue.data.features import FeatureTable
from ensue.data.graph_parts import Limits, pair_keys, user_item_keys
from ensue.data.graph_store import GraphInfo, entities_file, read_edges
from ensue.data.graphs import (
    Graph,
    GraphSchema,
    feature_graph,
    feature_schema,
    interaction_graph,
    make_graph,
)
from ensue.data.histories import Histories
from ensue.data.ids import IdMap
from ensue.data.times import parse_moment
from ensue.errors import ConfigError, DataError, did_you_mean

FORMAT = 1
Part = Literal["train", "train+validation", "all"]


class DatasetInfo(Config):
    """The contents of dataset.json.

    columns: role -> column of the input ("user", "item", "time"; labels and context by own name).
    time: "column" where the log has times; "order" where only the order of rows is known, and the
        time column numbers each user's rows.
    filters, split: the settings that were applied; split holds at least "kind".
    counts: users, items, interactions, train, validation, test, and rows dropped by each filter.
    features: of "items" and of "users", where there are any.
    graphs: name -> edge table.
    notes: sentences a reader of any result on this dataset should know (leaks, for instance).
    """

    format: int = FORMAT
    name: str
    sources: list[str]
    columns: dict[str, str]
    labels: list[str] = Field(default_factory=list)
    context: list[str] = Field(default_factory=list)
    time: Literal["column", "order"]
    filters: dict[str, Any]
    split: dict[str, Any]
    counts: dict[str, int]
    features: dict[str, FeaturesInfo] = Field(default_factory=dict)
    graphs: dict[str, GraphInfo] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    hash: str


class Dataset:
    """A dataset directory, opened. Arrays are memory-mapped and read-only."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file = self.path / "dataset.json"
        if not file.is_file():
            raise DataError(
                f"a dataset is a folder with a dataset.json; {self.path} has none. "
                "Make one with ensue prepare."
            )
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            if raw.get("kind") == "ranking":
                raise DataError(
                    f"a dataset of interactions is needed; {self.path} holds rows for ranking "
                    "models. Open it with RankingDataset, or run ensue prepare without --target."
                )
            if raw.get("format") != FORMAT:
                raise DataError(
                    f"{file} has format {raw.get('format')!r}, this version reads {FORMAT}. "
                    "Run ensue prepare again."
                )
            self.info = DatasetInfo(**raw)
        except (json.JSONDecodeError, ValidationError, AttributeError) as error:
            raise DataError(
                f"{file} must be what ensue prepare wrote; it is not: {error}"
            ) from None

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return self.info.counts["users"]

    @property
    def num_items(self) -> int:
        """Number of items I, without padding."""
        return self.info.counts["items"]

    @property
    def num_interactions(self) -> int:
        """Number of rows R of interactions.arrow."""
        return self.info.counts["interactions"]

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return read_columns(self.path / "interactions.arrow")

    @cached_property
    def items_table(self) -> pl.DataFrame:
        """The item table in dense-id order: raw_id and item columns."""
        return pl.read_ipc(self.path / "items.arrow")

    @cached_property
    def user_ids(self) -> IdMap:
        """Raw user ids."""
        return IdMap.read(self.path / "users.arrow")

    @cached_property
    def item_ids(self) -> IdMap:
        """Raw item ids."""
        return IdMap.read(self.path / "items.arrow")

    def column(self, name: str) -> NDArray[Any]:
        """Return column `name` of the interactions [R], memory-mapped.

        Context columns of text are stored as codes (0 is missing); `vocabulary` decodes them.
        """
        if name not in self._columns:
            raise DataError(f"{self.path} has no column {name!r}; it has {list(self._columns)}.")
        return self._columns[name]

    def vocabulary(self, name: str) -> IdMap:
        """Return the values behind the codes 1..n of a text context column."""
        return IdMap.read(self.path / f"context_{name}.arrow")

    def context_schema(self, event: Sequence[str], request: Sequence[str]) -> ContextSchema:
        """Return what the context columns of these names hold.

        Args:
            event, request: what a model reads of past events, and of the request.

        Raises:
            ConfigError: there is no context column of a name.
        """
        return ContextSchema(
            tuple(self._context_column(name, "context_in") for name in event),
            tuple(self._context_column(name, "context_out") for name in request),
        )

    def _context_column(self, name: str, setting: str) -> ContextColumn:
        known = self.info.context
        if name not in known:
            hint = (
                did_you_mean(name, known) if known else " It has none: see ensue prepare --context."
            )
            raise ConfigError(
                f"{setting} takes context columns of the dataset; {name!r} is none of "
                f"{self.path}.{hint}"
            )
        is_categorical = self.column(name).dtype == np.int32
        return ContextColumn(name, len(self.vocabulary(name)) if is_categorical else None)

    @cached_property
    def item_features(self) -> FeatureTable | None:
        """The features of items, memory-mapped; None where the dataset has none."""
        return self._features("items")

    @cached_property
    def user_features(self) -> FeatureTable | None:
        """The features of users, memory-mapped; None where the dataset has none."""
        return self._features("users")

    def _features(self, side: Side) -> FeatureTable | None:
        info = self.info.features.get(side)
        return read_features(self.path, side, info) if info and info.columns else None

    def feature_vocabulary(self, side: Side, name: str) -> IdMap:
        """Return the values behind the codes 1..n of a categorical or multi-valued feature.

        Raises:
            DataError: there is no such feature.
        """
        info = self.info.features.get(side)
        names = [column.name for column in info.columns] if info else []
        coded = [c.name for c in info.columns if c.kind in ("categorical", "multi")] if info else []
        if name not in coded:
            raise DataError(
                f"{self.path} has no values of a feature {name!r} of {side}; it has {coded}."
            )
        return IdMap.read(vocabulary_file(self.path, side, names.index(name)))

    @cached_property
    def _ends(self) -> dict[str, NDArray[np.int64]]:
        """Row numbers [U + 1] where each user's parts end, and where the user starts."""
        table = pl.read_ipc(
            self.path / "users.arrow", columns=["train_end", "validation_end", "end"]
        )
        zero = np.zeros(1, dtype=np.int64)  # user 0 has no rows
        ends = {name: np.concatenate([zero, table[name].to_numpy()]) for name in table.columns}
        ends["start"] = np.concatenate([zero, ends["end"][:-1]])
        return ends

    def histories(self, part: Part = "all", context: ContextSchema | None = None) -> Histories:
        """Return what is known of each user: the training part, that and validation, or all.

        Args:
            context: the context columns beside the items; None is none of them.
        """
        end = {"train": "train_end", "train+validation": "validation_end", "all": "end"}[part]
        context = context or ContextSchema()
        return Histories(
            self.column("item"),
            self._ends["start"],
            self._ends[end],
            tuple(self.column(column.name) for column in context.event),
            tuple(self.column(column.name) for column in context.request),
        )

    def targets(self, split: Literal["validation", "test"]) -> Histories:
        """Return each user's held-out interactions, as histories of those rows alone."""
        first, last = {
            "validation": ("train_end", "validation_end"),
            "test": ("validation_end", "end"),
        }[split]
        return Histories(self.column("item"), self._ends[first], self._ends[last])

    def graphs(self, part: Part = "all", names: Sequence[str] | None = None) -> dict[str, Graph]:
        """Return the edge tables, and the features as graphs, that are known in a part.

        Where edges have times, none is later than the part; data.graph_parts has the rules.

        Args:
            names: which graphs, in this order; None is all of them.

        Raises:
            ConfigError: there is no graph of a name.
        """
        schemas = self.graph_schemas
        for name in names or ():
            if name not in schemas:
                hint = did_you_mean(name, schemas) if schemas else " It has none."
                raise ConfigError(
                    f"graphs are edge tables and features of the dataset; {name!r} is none of "
                    f"{self.path}.{hint} See ensue prepare --graph."
                )
        return {name: self._graph(name, part) for name in (schemas if names is None else names)}

    def interaction_graph(self, part: Part = "all") -> Graph:
        """Return users and items of a part; the weight is the number of their interactions."""
        return interaction_graph(self.histories(part), self.num_items)

    @cached_property
    def graph_schemas(self) -> dict[str, GraphSchema]:
        """Name -> schema of each graph that `graphs` returns."""
        schemas = {name: info.as_schema(name) for name, info in self.info.graphs.items()}
        for side, info in self.info.features.items():
            num_rows = self.info.counts[side]
            for column in info.columns:
                if column.kind in ("categorical", "multi"):
                    schema = feature_schema(side, column.column, num_rows)
                    schemas[schema.name] = schema
        return schemas

    def entity_ids(self, kind: str) -> IdMap:
        """Return the raw ids of an entity type of a graph: "user", "item", "tag", "items.genres".

        Raises:
            DataError: no graph has entities of this type.
        """
        known = {kind for schema in self.graph_schemas.values() for kind in schema.types}
        if kind in ("user", "item"):
            return self.user_ids if kind == "user" else self.item_ids
        if kind not in known:
            raise DataError(
                f"{self.path} has no entities of type {kind!r}."
                f"{did_you_mean(kind, [*sorted(known), 'user', 'item'])}"
            )
        side, _, name = kind.partition(".")
        if name:
            return self.feature_vocabulary(side, name)  # type: ignore[arg-type]
        return IdMap.read(entities_file(self.path, kind))

    def _graph(self, name: str, part: Part) -> Graph:
        schema = self.graph_schemas[name]
        if name not in self.info.graphs:
            side, _, feature = name.partition(".")
            table = self.item_features if side == "items" else self.user_features
            assert table is not None
            place = [column.name for column in table.columns].index(feature)
            return feature_graph(schema, table.values[place])
        edges = read_edges(self.path, name)
        is_known = np.ones(len(edges["source"]), dtype=np.bool_)
        limits = self._limits(part)
        if limits is not None and "time" in edges:
            is_known &= limits.allow(schema.types, edges)
        pairs = pair_keys(schema.types, edges, self.num_items)
        if pairs is not None:
            is_known &= ~np.isin(pairs, self._pairs_after(part))
        kept = {column: values[is_known] for column, values in edges.items()}
        return make_graph(schema, kept["source"], kept["target"], kept["weight"])

    def _limits(self, part: Part) -> Limits | None:
        """Return until when edges count in a part; None is without end."""
        split = self.info.split
        if part == "all" or split["kind"] == "none":
            return None
        if split["kind"] == "time":
            cutoff = split["cutoffs"][0 if part == "train" else 1]
            return Limits.at(parse_moment(cutoff), self.num_users)
        return Limits.by_user(self.column("time"), self._ends, part)

    def _pairs_after(self, part: Part) -> NDArray[np.int64]:
        """Return the pairs of users and items of the parts after a part, as numbers."""
        first = {"train": "train_end", "train+validation": "validation_end", "all": "end"}[part]
        later = Histories(self.column("item"), self._ends[first], self._ends["end"])
        return np.unique(user_item_keys(*later.flat(), self.num_items))
