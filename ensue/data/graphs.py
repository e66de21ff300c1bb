"""Graphs between the entities of a dataset: users, items, and whatever else a table names.

A graph is bipartite: the entities of one type on one side, those of another type, or of the same
one, on the other. Dense ids are 1..n, as everywhere; 0 is padding and has no edge.
Each categorical and multi-valued feature is a graph too, between its items or users and its values.

Shapes: E edges, N items or users, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.features import Bags, FeatureColumn
from ensue.data.histories import Histories

INTERACTIONS = "interactions"


@dataclass(frozen=True)
class GraphSchema:
    """What a model reads of a graph, without its edges.

    name: "tags", "friends"; of a feature "items.genres".
    types: of the entities of the two sides: "user", "item", or another name.
    sizes: number of entities of each side, padding not counted.
    """

    name: str
    types: tuple[str, str]
    sizes: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the schema, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> GraphSchema:
        """Return the schema that `to_dict` stored."""
        (first, second), (rows, columns) = stored["types"], stored["sizes"]
        return cls(stored["name"], (first, second), (rows, columns))


@dataclass(frozen=True)
class Graph:
    """The edges of a graph, each pair of entities once.

    sources: [E] ids of the first side, ascending.
    targets: [E] ids of the second side, ascending within a source.
    weights: [E], above 0.
    """

    schema: GraphSchema
    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.sources)


def make_graph(
    schema: GraphSchema,
    sources: NDArray[np.integer[Any]],
    targets: NDArray[np.integer[Any]],
    weights: NDArray[np.floating[Any]] | None = None,
) -> Graph:
    """Return the graph of edges [E] in any order; the weights of the same pair are added up.

    Args:
        weights: None is 1 for every edge.

    >>> schema = GraphSchema("tags", ("item", "tag"), (3, 2))
    >>> graph = make_graph(schema, np.array([3, 1, 3]), np.array([1, 2, 1]))
    >>> graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist()
    ([1, 3], [2, 1], [1.0, 2.0])
    """
    keys = sources.astype(np.int64) * (schema.sizes[1] + 1) + targets
    if (keys[1:] < keys[:-1]).any():  # what is stored is sorted already
        order = np.argsort(keys, kind="stable")
        keys, sources, targets = keys[order], sources[order], targets[order]
        weights = None if weights is None else weights[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    if weights is None:
        summed: NDArray[Any] = np.diff(first, append=len(keys))
    else:
        summed = np.add.reduceat(weights, first, dtype=np.float64) if len(first) else weights
    return Graph(
        schema,
        sources[first].astype(np.int32),
        targets[first].astype(np.int32),
        summed.astype(np.float32),
    )


def interaction_graph(histories: Histories, num_items: int) -> Graph:
    """Return users and items of histories; the weight is how often a user has the item."""
    schema = GraphSchema(INTERACTIONS, ("user", "item"), (histories.num_users, num_items))
    return make_graph(schema, *histories.flat())


def feature_schema(side: str, column: FeatureColumn, num_rows: int) -> GraphSchema:
    """Return the schema of a feature of "items" or "users" as a graph.

    Args:
        column: categorical or multi-valued.
        num_rows: number N of items or of users.
    """
    name = f"{side}.{column.name}"
    return GraphSchema(name, (side.removesuffix("s"), name), (num_rows, column.size))


def feature_graph(schema: GraphSchema, values: NDArray[np.int32] | Bags) -> Graph:
    """Return the graph of a feature: an edge of weight 1 to each value that an item or user has.

    Args:
        values: codes [N + 1], or bags of codes.
    """
    if isinstance(values, Bags):
        sources = np.repeat(np.arange(len(values.offsets) - 1), np.diff(values.offsets))
        return make_graph(schema, sources, values.values)
    sources = np.flatnonzero(values)
    return make_graph(schema, sources, values[sources])
