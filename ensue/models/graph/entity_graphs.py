"""The graphs of MEDRES: vectors of entities of all types, and the rounds over their edges.

Edges are facts of a training, no part of the state: what answers need of them is made of them once.
Shapes: U users, I items, n, n' entities of the sides of a graph, E edges, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ensue.data.graphs import INTERACTIONS, Graph, GraphSchema
from ensue.errors import ConfigError
from ensue.models.graph.medres_config import MedresConfig
from ensue.nn.entity_rounds import EntityRound, Side
from ensue.nn.neighbor_sampling import sample_neighbors
from ensue.nn.propagation import Adjacency

USER, ITEM = 0, 1  # numbers of the types of entities
WHOLE_EDGES = 10_000_000  # of a graph that is read as a whole, where max_neighbors is None
MAX_NEIGHBORS = 32  # of an entity in a larger one

Key = tuple[int, Side]  # a round, and a side of a graph in it


class Found(NamedTuple):
    """What a pass over the graphs found.

    items: [I, D]; near: of a round and a side of users or items, what the side reads of its
    neighbors [n', D]; sums: of a round and a side of users, the sums of it over the neighbors of
    all users [U, D]. What is zero, or not needed, is left out: in the last round users take the
    sums over their histories.
    """

    items: Tensor
    near: dict[Key, Tensor]
    sums: dict[Key, Tensor]


class EntityGraphs(nn.Module):
    """Vectors of entities and rounds over graphs.

    schemas: of the graphs, interactions first where they are read.
    types: "user", "item", and the other types; a number of a type is its place.
    rounds: the last one makes vectors of users and items alone.
    """

    def __init__(
        self, config: MedresConfig, graphs: Sequence[GraphSchema], *, num_users: int, num_items: int
    ) -> None:
        super().__init__()
        self.config = config
        own = GraphSchema(INTERACTIONS, ("user", "item"), (num_users, num_items))
        self.schemas = ((own,) if config.interactions else ()) + tuple(graphs)
        sizes = {"user": num_users, "item": num_items}
        for schema in self.schemas:
            sizes |= dict(zip(schema.types, schema.sizes, strict=True))
        self.types, self.sizes = tuple(sizes), tuple(sizes.values())
        _check_reach(self.schemas, config.layers)
        dim = config.dim
        is_read = {USER: config.ids == "both", ITEM: config.ids != "none"}
        self.embeddings = nn.ParameterDict(
            {
                str(kind): nn.Parameter(torch.randn(size, dim) * 0.1)
                for kind, size in enumerate(self.sizes)
                if is_read.get(kind, True)
            }
        )
        sides = [
            Side(number, is_first, self.types.index(one), self.types.index(other))
            for number, schema in enumerate(self.schemas)
            for is_first, (one, other) in ((True, schema.types), (False, schema.types[::-1]))
        ]
        inner, last = range(len(self.types)), (USER, ITEM)
        self.rounds = nn.ModuleList(
            EntityRound(
                sides,
                last if number == config.layers - 1 else inner,
                dim,
                degree=config.degree,
                activation=config.activation,
                dropout=config.dropout,
            )
            for number in range(config.layers)
        )

    def sides(self, number: int, kind: int) -> list[tuple[int, Side]]:
        """Return numbers and sides of a type in a round."""
        made: EntityRound = self.rounds[number]  # type: ignore[assignment]
        return [(n, side) for n, side in enumerate(made.sides) if side.own == kind]

    def is_history(self, side: Side) -> bool:
        """Whether a side is that of users in the interactions."""
        return self.schemas[side.graph].name == INTERACTIONS and side.own == USER

    def inputs(self) -> list[Tensor | None]:
        """Return the vectors [n, D] of each type; None where there are none."""
        tables = dict(self.embeddings.items())
        return [tables.get(str(kind)) for kind in range(len(self.types))]

    def own(self, kind: int, x: Tensor | None) -> Tensor:
        """Return the inputs of a type; zeros for None."""
        if x is not None:
            return x
        like = next(self.parameters())
        return like.new_zeros(self.sizes[kind], self.config.dim)

    def forward(self, graphs: Sequence[Adjacency]) -> Found:
        """Return what a pass over the edges finds."""
        inputs, all_near, all_sums = self.inputs(), {}, {}
        for number, layer in enumerate(self.rounds):
            made: EntityRound = layer  # type: ignore[assignment]
            is_last = number == len(self.rounds) - 1
            sums: list[Tensor | None] = []
            for place, side in enumerate(made.sides):
                near = made.near(place, inputs, graphs[side.graph])
                sums.append(None)
                if near is None:
                    continue
                if side.own in (USER, ITEM):
                    all_near[number, side] = near
                if not (is_last and self.is_history(side)):
                    total = side.sum_neighbors(graphs[side.graph], near)
                    sums[place] = total
                    if side.own == USER:
                        all_sums[number, side] = total
            made_here = (ITEM,) if is_last else made.kinds
            merged: list[Tensor | None] = [None] * len(self.types)
            for kind in made_here:
                totals = [sums[place] for place in made.numbers(kind)]
                merged[kind] = made.merge(kind, self.own(kind, inputs[kind]), totals)
            inputs = merged
        items = inputs[ITEM]
        assert items is not None
        return Found(items, all_near, all_sums)

    def rows(self, kind: int, own: Tensor, sums: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """Return the vectors [B, D] of rows of users or items.

        Args:
            own: their inputs [B, D].
            sums: of each round, the sums over neighbors [B, D] for each side of the type.
        """
        for layer, totals in zip(self.rounds, sums, strict=True):
            own = layer.merge(kind, own, totals)  # type: ignore[operator]
        return own

    def build(self, edges: Mapping[str, Graph]) -> list[Adjacency]:
        """Return the graphs of the schemas for products."""
        graphs = [edges[schema.name] for schema in self.schemas]
        return [
            Adjacency.build(g.sources, g.targets, g.weights, g.schema.sizes, norm=self.config.norm)
            for g in graphs
        ]

    def thin(self, graphs: Sequence[Adjacency], is_hidden: Tensor | None) -> list[Adjacency]:
        """Return the graphs as a training step reads them.

        Args:
            is_hidden: [E] of the interactions, edges that the step is to find.
        """
        rate, thinned = self.config.edge_dropout, []
        for number, graph in enumerate(graphs):
            most = self.config.max_neighbors
            if most is None and graph.num_edges > WHOLE_EDGES:
                most = MAX_NEIGHBORS
            hides = is_hidden is not None and self.schemas[number].name == INTERACTIONS
            is_dropped = is_hidden if hides else None
            if rate:
                noise = torch.rand(graph.num_edges, device=graph.to_a.values.device)
                is_dropped = noise < rate if is_dropped is None else is_dropped | (noise < rate)
            if most is not None:
                graph = sample_neighbors(graph, most)
            if is_dropped is not None:
                graph = graph.without(is_dropped, 1 / (1 - rate))
            thinned.append(graph)
        return thinned


def _check_reach(schemas: Sequence[GraphSchema], layers: int) -> None:
    """Raise a ConfigError for a graph whose edges no user and no item could learn of."""
    reached = {"user", "item"}
    for _ in range(layers - 1):
        reached |= {kind for s in schemas if reached & set(s.types) for kind in s.types}
    for schema in schemas:
        if not reached & set(schema.types):
            one, other = schema.types
            raise ConfigError(
                f"a graph must lead to users or items within {layers} layers; {schema.name!r} "
                f"joins {one!r} and {other!r}. Set a larger number of layers, or leave it out."
            )
