"""CML: users and items in one space, where a user is near to the items that he or she has.

Hsieh et al., "Collaborative metric learning", WWW 2017. The score is minus the squared distance. An
interaction is compared with the nearest of several sampled items, by a margin; its weight grows
with the estimated rank of the item (Eq. 2), and vectors stay in the unit ball.
Departures: no features of items and no penalty of covariance (L_f and L_c of the paper). A user
never seen in training is the mean of the items of the history, an empty history the mean user.
Shapes: B batch, D width, C candidates, I items, U users.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.histories import HistoryBatch
from ensue.models.base import Model
from ensue.nn.bags import bag_sum
from ensue.nn.embedding import gather_rows


class CMLConfig(Config):
    """Settings of CML.

    margin: by how much the squared distance of a positive must be the smaller one.
    num_negatives: sampled for each interaction; the nearest one counts.
    max_norm: largest length of a vector; None does not bound it.
    rank_weight: whether the loss of an interaction counts log(1 + estimated rank) times.
    """

    dim: int = Field(default=64, ge=1)
    margin: float = Field(default=0.5, gt=0)
    num_negatives: int = Field(default=20, ge=1)
    max_norm: float | None = Field(default=1.0, gt=0)
    rank_weight: bool = True


class CML(Model):
    """Positions of users [U, D] and of items [I + 1, D].

    After a step of the optimizer they may lie outside the ball until `clip_`; all that is read of
    them here lies inside.
    """

    Config = CMLConfig

    def __init__(self, config: CMLConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        scale = config.dim**-0.5
        self.user_embedding = nn.Parameter(torch.randn(num_users, config.dim) * scale)
        self.item_embedding = nn.Parameter(torch.randn(num_items + 1, config.dim) * scale)

    @torch.no_grad()
    def clip_(self) -> None:
        """Move positions outside the ball to its surface."""
        if self.config.max_norm is not None:
            for table in (self.user_embedding, self.item_embedding):
                table.copy_(self._clipped(table))

    def distances(self, users: Tensor, candidates: Tensor) -> Tensor:
        """Return squared distances [B, C] of candidate ids [B, C] from known users [B].

        Needs `clip_` after the last step.
        """
        places = gather_rows(self.user_embedding, users - 1)
        return (gather_rows(self.item_embedding, candidates) - places[:, None]).square().sum(dim=2)

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return minus squared distances [B, I + 1]; column 0 (padding) has no meaning."""
        queries, _ = self.queries(batch)
        table, bias = self.item_table()
        return torch.addmm(bias, queries, table.T)

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return queries [B, D + 1], and the lengths [B] of the histories.

        With the place p of a user a query is (2 p, -|p|^2): its product with (q, 1), and the bias
        -|q|^2, are minus the squared distance of q.
        """
        users, items = self._clipped(self.user_embedding), self._clipped(self.item_embedding)
        is_real = (batch.items > 0).to(items.dtype)
        sums = bag_sum(items, batch.items, batch.offsets, is_real)
        counts = bag_sum(torch.ones_like(items[:, :1]), batch.items, batch.offsets, is_real)
        of_items = torch.where(counts > 0, sums / counts.clamp(min=1), users.mean(dim=0))
        of_users = users[(batch.users - 1).clamp(min=0)]
        places = torch.where((batch.users > 0)[:, None], of_users, of_items)
        squares = places.square().sum(dim=1, keepdim=True)
        return torch.cat([2 * places, -squares], dim=1), batch.offsets.diff()

    def item_table(self) -> tuple[Tensor, Tensor]:
        """Return what queries are matched with: vectors [I + 1, D + 1] and biases [I + 1]."""
        items = self._clipped(self.item_embedding)
        return torch.cat([items, torch.ones_like(items[:, :1])], dim=1), -items.square().sum(dim=1)

    def _clipped(self, table: Tensor) -> Tensor:
        """Return the rows of a table, those outside the ball moved to its surface."""
        if self.config.max_norm is None:
            return table
        lengths = table.norm(dim=1, keepdim=True)
        return table * (self.config.max_norm / lengths.clamp(min=self.config.max_norm))
