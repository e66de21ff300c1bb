"""Rounds over the graphs between entities of several types, as MEDRES makes them.

In a round each side of each graph has a convolution of its own (`nn.graph_convolution`), and what
the graphs say of a type of entities is merged into one vector by a perceptron. The convolution of
some rows alone needs their own inputs, and what they read of their neighbors:

    H = activation(X T0 + W near + b),    near = X' T1 + W^T (X T2),

where near [n', H] is of the other side and the same for all rows: a new row of W is enough for the
vector of a new entity.
All matrices T start as the identity, and vectors are merged by their sum at first: so what two
entities have in common in the graphs is in the product of their vectors before anything is learned.
Shapes: n, n' entities of a type and of the other side, H width, P graph sides of a type.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.nn.activations import ACTIVATIONS, Activation
from ensue.nn.bags import bag_sum
from ensue.nn.dropout import Dropout
from ensue.nn.graph_convolution import SideWeights
from ensue.nn.perceptron import rectified_layer
from ensue.nn.propagation import Adjacency


class Side(NamedTuple):
    """One side of a graph: its number, whether it is the first side, and types of entities."""

    graph: int
    is_first: bool
    own: int
    other: int

    def sum_neighbors(self, graph: Adjacency, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return sums [n, H] over the neighbors, whose rows are x [n', H]."""
        return graph.propagate(x, plus) if self.is_first else graph.propagate_back(x, plus)

    def sum_back(self, graph: Adjacency, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return the same the other way round: [n', H] of x [n, H]."""
        return graph.propagate_back(x, plus) if self.is_first else graph.propagate(x, plus)


class Merge(nn.Module):
    """One vector of an entity out of what P graphs say: their sum, and a perceptron over them.

    The perceptron, a rectified layer and a linear one, starts at zero.
    """

    def __init__(self, num_parts: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first = rectified_layer(num_parts * width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        self.dropout = Dropout(dropout)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [n, H] of P times [n, H]."""
        x = self.dropout(torch.cat(list(parts), dim=1))
        merged: Tensor = self.second(self.dropout(F.relu(self.first(x))))
        return merged + x.view(len(x), len(parts), merged.shape[1]).sum(dim=1)


class EntityRound(nn.Module):
    """A round: `near` of each side, sums of it over neighbors, and `merge` of each type.

    sides: those whose own type is one of `kinds`, the types that the round makes vectors of.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        kinds: Sequence[int],
        width: int,
        *,
        degree: int,
        activation: Activation,
        dropout: float,
    ) -> None:
        super().__init__()
        self.kinds, self.activation = tuple(kinds), ACTIVATIONS[activation]
        self.sides = [side for side in sides if side.own in kinds]
        self.weights = nn.ModuleList(SideWeights(width, width, width, degree) for _ in self.sides)
        for number in range(len(self.sides)):
            for matrix in self._weights_of(number).theta:
                nn.init.eye_(matrix)
        self.merges = nn.ModuleDict(
            {str(kind): Merge(max(1, len(self.numbers(kind))), width, dropout) for kind in kinds}
        )

    def numbers(self, kind: int) -> list[int]:
        """Return which sides are of a type."""
        return [number for number, side in enumerate(self.sides) if side.own == kind]

    def near(self, number: int, inputs: Sequence[Tensor | None], graph: Adjacency) -> Tensor | None:
        """Return what side `number` reads of each entity of the other side [n', H].

        Args:
            inputs: [n, H] of each type; None is zero.

        None is returned where that is zero, too.
        """
        side = self.sides[number]
        own, other = inputs[side.own], inputs[side.other]
        return self._weights_of(number).near(own, other, partial(side.sum_back, graph))

    def merge(self, kind: int, own: Tensor, sums: Sequence[Tensor | None]) -> Tensor:
        """Return the vectors [n, H] of entities of a type.

        Args:
            own: their inputs [n, H].
            sums: of `near` over their neighbors [n, H], for each side of the type in the order of
                `numbers`; None is zero.
        """
        parts = []
        for number, total in zip(self.numbers(kind), sums, strict=True):
            part = self._weights_of(number).own(own)
            parts.append(self.activation(part if total is None else part + total))
        merged: Tensor = self.merges[str(kind)](parts or [own])
        return merged

    def _weights_of(self, number: int) -> SideWeights:
        weights = self.weights[number]
        assert isinstance(weights, SideWeights)
        return weights


def neighbor_sums(
    near: Tensor, scale: Tensor, ids: Tensor, offsets: Tensor, *, is_symmetric: bool
) -> Tensor:
    """Return for new rows of a graph what the graph's own product would give them [B, H].

    Args:
        near: [n' + 1, H], row 0 is padding.
        scale: [n' + 1], what an edge to each of them counts.
        ids: [S] neighbors, one after the other; offsets: [B + 1].
        is_symmetric: a row's own part of the weight is the root of its degree; else its degree.
    """
    lengths = offsets.diff().to(near.dtype).clamp(min=1)
    own = lengths.rsqrt() if is_symmetric else lengths.reciprocal()
    weights = scale[ids] * own.repeat_interleave(offsets.diff(), output_size=len(ids))
    return bag_sum(near, ids, offsets, weights)
