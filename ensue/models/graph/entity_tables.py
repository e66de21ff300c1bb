"""What answers need of the graphs of MEDRES when the edges are gone: sums over neighbors.

A user who is known has the sums of a training; a row that is given by its neighbors, a history or
the values of features, takes the sum over what the graph's side reads of them.
Shapes: B rows, U users, n' entities of the other side of a graph, D width, L rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.data.feature_schema import FeatureSchema
from ensue.data.graphs import Graph
from ensue.models.graph.entity_graphs import ITEM, USER, EntityGraphs, Found, Key
from ensue.nn.entity_rounds import Side, neighbor_sums
from ensue.nn.feature_rows import BagRows, FeatureRows


class Neighbors(NamedTuple):
    """Neighbors of B rows: ids [S], 0 is none, and offsets [B + 1]; edges count `scale` times."""

    ids: Tensor
    offsets: Tensor
    scale: float = 1.0


class Tables(NamedTuple):
    """Of a round and a side: what it reads of its neighbors [n' + 1, D], or the sums [U, D]."""

    near: Mapping[Key, Tensor]
    sums: Mapping[Key, Tensor]


def tables_of(found: Found) -> Tables:
    """Return the tables of a pass over the edges; row 0 of what is read is padding."""
    return Tables({key: F.pad(near, (0, 0, 1, 0)) for key, near in found.near.items()}, found.sums)


class EntityTables(nn.Module):
    """The tables that answers need, as buffers, and what an edge to a neighbor counts.

    near_R_S: of round R and side S, of users in the interactions, and of users and items in the
        graphs of their features. sums_R_S: of users in all other graphs.
    scale_S: [n' + 1], of the sides of `near`.
    """

    def __init__(self, entities: EntityGraphs, features: FeatureSchema) -> None:
        super().__init__()
        self.is_symmetric = entities.config.norm == "sym"
        names = {
            USER: [f"users.{column.name}" for column in features.users],
            ITEM: [f"items.{column.name}" for column in features.items],
        }
        self.history_side: Side | None = None
        self._columns: dict[int, dict[Side, int]] = {USER: {}, ITEM: {}}
        self._near: list[Key] = []
        self._sums: list[Key] = []
        self._sides: list[list[tuple[int, Side]]] = []
        for number in range(len(entities.rounds) if entities.config.degree else 0):
            for kind in (USER, ITEM):
                for _, side in entities.sides(number, kind):
                    name = entities.schemas[side.graph].name
                    is_history = entities.is_history(side)
                    if is_history:
                        self.history_side = side
                    if name in names[kind]:
                        self._columns[kind][side] = names[kind].index(name)
                    if is_history or name in names[kind]:
                        self._near.append((number, side))
                    if kind == USER and not is_history:
                        self._sums.append((number, side))
        width, sizes = entities.config.dim, entities.sizes
        for key in self._near:
            side = key[1]
            self.register_buffer(f"near_{_name(key)}", torch.zeros(sizes[side.other] + 1, width))
            self.register_buffer(f"scale_{_name(side)}", torch.zeros(sizes[side.other] + 1))
        for key in self._sums:
            self.register_buffer(f"sums_{_name(key)}", torch.zeros(sizes[USER], width))

    @torch.no_grad()
    def observe_(self, entities: EntityGraphs, edges: Mapping[str, Graph]) -> None:
        """Take note of what an edge to each entity counts.

        Args:
            edges: of each graph.
        """
        for _, side in self._near:
            graph = edges[entities.schemas[side.graph].name]
            ids = graph.targets if side.is_first else graph.sources
            size = entities.sizes[side.other]
            degrees = np.bincount(ids, graph.weights, minlength=size + 1)
            scale = np.ones(size + 1)
            if self.is_symmetric:
                scale = np.where(degrees > 0, degrees, np.inf) ** -0.5
            scale[0] = 0
            self.scale(side).copy_(torch.from_numpy(scale))

    def fill_(self, tables: Tables) -> None:
        """Take the tables of a training; what they leave out is zero."""
        for name, keys, found in (
            ("near", self._near, tables.near),
            ("sums", self._sums, tables.sums),
        ):
            for key in keys:
                buffer: Tensor = getattr(self, f"{name}_{_name(key)}")
                buffer.copy_(found[key]) if key in found else buffer.zero_()

    def stored(self) -> Tables:
        """Return the tables as they are stored."""
        return Tables(
            {key: getattr(self, f"near_{_name(key)}") for key in self._near},
            {key: getattr(self, f"sums_{_name(key)}") for key in self._sums},
        )

    def scale(self, side: Side) -> Tensor:
        """Return what an edge to each entity of the other side counts [n' + 1]."""
        scale: Tensor = getattr(self, f"scale_{_name(side)}")
        return scale

    def feature_neighbors(self, kind: int, rows: FeatureRows) -> dict[Side, Neighbors]:
        """Return the neighbors of rows of users or items in the graphs of their features.

        Args:
            rows: of the columns of features that the model reads.
        """
        found = {}
        for side, column in self._columns[kind].items():
            values = rows.values[column]
            if not isinstance(values, BagRows):
                is_real = values > 0
                offsets = torch.cat([values.new_zeros(1), is_real.cumsum(0)])
                values = BagRows(values[is_real], offsets)
            found[side] = Neighbors(values.values, values.offsets)
        return found

    def row_sums(
        self,
        entities: EntityGraphs,
        kind: int,
        tables: Tables,
        neighbors: Mapping[Side, Neighbors],
        users: Tensor | None = None,
    ) -> list[list[Tensor | None]]:
        """Return for each round the sums [B, D] of rows in each side of a type; None for zero.

        Args:
            neighbors: of the rows, in the sides that have them.
            users: [B], whose sums stand in other sides; 0 is unknown and has none. None is nobody.
        """
        rounds: list[list[Tensor | None]] = []
        for number in range(len(entities.rounds)):
            own: list[Tensor | None] = []
            for _, side in entities.sides(number, kind):
                key = (number, side)
                if side in neighbors and key in tables.near:
                    ids, offsets, scale = neighbors[side]
                    scales = self.scale(side) * scale
                    own.append(self._sum(tables.near[key], scales, ids, offsets))
                elif users is not None and key in tables.sums:
                    rows = tables.sums[key].index_select(0, (users - 1).clamp(min=0))
                    own.append(rows * (users > 0)[:, None])
                else:
                    own.append(None)
            rounds.append(own)
        return rounds

    def _sum(self, near: Tensor, scales: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        return neighbor_sums(near, scales, ids, offsets, is_symmetric=self.is_symmetric)


def _name(of: Key | Side) -> str:
    """Return a part of the name of a buffer."""
    if isinstance(of, Side):
        return f"{of.graph}{'a' if of.is_first else 'b'}"
    return f"{of[0]}_{_name(of[1])}"
