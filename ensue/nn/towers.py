"""Towers of a retrieval model: features become one vector each, and all of them one unit vector.

Covington et al., RecSys 2016, and Yi et al., RecSys 2019: identifiers and categories are embedded,
bags are averaged, and a multilayer perceptron reads them side by side. A feature that is masked is
replaced by a trained vector of its own (Yao et al., CIKM 2021); a missing one is zero.
Shapes: n rows, F features, D_f width of feature f, D width of the output, V values of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.data.features import FeatureColumn
from ensue.nn.bags import bag_sum, mean_weights
from ensue.nn.embedding import gather_rows
from ensue.nn.feature_rows import BagRows, FeatureRows

Pooling = Literal["mean", "sum"]


class Sizes(NamedTuple):
    """Number of ids in a table, width of their vectors (0: there is no table), and of a feature."""

    num_ids: int
    id_dim: int
    feature_dim: int


class FeatureEmbedding(nn.Module):
    """Vectors of ids and of the columns of a feature table, ids first.

    widths: D_f of each of the F features; names: "id", then those of the columns.
    ids: [V, id_dim] table of ids; row 0 is padding and stays zero.
    tables: of each column [V + 1, feature_dim], row 0 (missing) stays zero; of a number or a vector
        the matrix [size, feature_dim] that it is multiplied with.
    defaults: of each feature [D_f], what stands for a masked one.
    """

    def __init__(
        self, columns: Sequence[FeatureColumn], *, sizes: Sizes, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.columns, self.pooling = tuple(columns), pooling
        has_ids = sizes.id_dim > 0
        self.names = (["id"] if has_ids else []) + [column.name for column in columns]
        self.widths = ([sizes.id_dim] if has_ids else []) + [sizes.feature_dim] * len(self.columns)
        self.ids: nn.Parameter | None = None
        if has_ids:
            self.ids = nn.Parameter(_new_table(sizes.num_ids, sizes.id_dim))
        self.tables = nn.ParameterList(
            _new_table(column.size + 1, sizes.feature_dim)
            if column.kind in ("categorical", "multi")
            else torch.randn(column.size, sizes.feature_dim) / column.size**0.5
            for column in self.columns
        )
        self.defaults = nn.ParameterList(torch.zeros(width) for width in self.widths)

    @property
    def width(self) -> int:
        """Width of all features side by side."""
        return sum(self.widths)

    def forward(self, ids: Tensor, rows: FeatureRows) -> list[Tensor]:
        """Return the vectors of n rows, [n, D_f] for each feature, given ids [n]."""
        slots = [] if self.ids is None else [gather_rows(self.ids, ids, padding_idx=0)]
        for column, table, values in zip(self.columns, self.tables, rows.values, strict=True):
            slots.append(self._embed(column, table, values, drop=0.0))
        return slots

    def redraw_bags(self, slots: list[Tensor], rows: FeatureRows, *, drop: float) -> list[Tensor]:
        """Return the vectors with those of the bags made anew, some of their values left out.

        Args:
            drop: probability that a value is left out.
        """
        first = len(slots) - len(self.columns)
        redrawn = list(slots)
        for number, (column, values) in enumerate(zip(self.columns, rows.values, strict=True)):
            if column.kind == "multi" and drop > 0:
                redrawn[first + number] = self._embed(column, self.tables[number], values, drop)
        return redrawn

    def join(self, slots: Sequence[Tensor], is_masked: Tensor | None = None) -> Tensor:
        """Return the vectors side by side [n, D_1 + ... + D_F].

        Args:
            is_masked: [F] or [n, F], features that their default takes the place of.
        """
        if is_masked is not None:
            flags = is_masked.unbind(-1)
            slots = [
                torch.where(flag[..., None], default, slot)
                for slot, default, flag in zip(slots, self.defaults, flags, strict=True)
            ]
        return torch.cat(list(slots), dim=1)

    def _embed(
        self, column: FeatureColumn, table: Tensor, values: Tensor | BagRows, drop: float
    ) -> Tensor:
        """Return the vectors [n, D_f] of one column."""
        if isinstance(values, BagRows):
            if drop > 0:
                values = drop_values(values, drop)
            ids, offsets = values
            if self.pooling == "mean":
                weights = mean_weights(offsets, len(ids), table.dtype)
            else:
                weights = table.new_ones(len(ids))
            return bag_sum(table, ids, offsets, weights)
        if column.kind == "categorical":
            return gather_rows(table, values, padding_idx=0)
        return values.nan_to_num(0.0).to(table.dtype) @ table


class Tower(nn.Module):
    """A multilayer perceptron [n, D_in] to vectors of length 1 [n, D], linear in its last layer.

    With a rectified last layer no two vectors could have a negative cosine.
    """

    def __init__(self, width: int, hidden: Sequence[int], dim: int) -> None:
        super().__init__()
        widths = [width, *hidden, dim]
        self.layers = nn.ModuleList(nn.Linear(one, other) for one, other in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors [n, D]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.relu(layer(x))
        return F.normalize(last(x), dim=1)


def drop_values(bags: BagRows, rate: float) -> BagRows:
    """Return the bags without some of their values, each left out with probability `rate`."""
    noise = torch.rand(len(bags.values), device=bags.values.device)
    is_kept = noise >= rate
    kept = torch.cat([is_kept.new_zeros(1), is_kept]).cumsum(0)
    return BagRows(bags.values[is_kept], kept[bags.offsets])


def _new_table(size: int, width: int) -> Tensor:
    """Return a table whose rows have a length of about 1, but for row 0, which is zero."""
    table = torch.randn(size, width) / width**0.5
    table[0] = 0
    return table
