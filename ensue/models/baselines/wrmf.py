"""WRMF: a factorization of all user-item cells, where what was clicked has more weight.

Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008. With x
= 1 where user u clicked item i and 0 elsewhere, it minimizes

    sum over u, i of (1 + (weight - 1) x) (x - p_u . q_i)^2 + ridge (|p_u|^2 + |q_i|^2)

by sweeps that solve for all users, then for all items. Departures: a click counts once, however
often it occurs. Vectors of users are not kept: p_u is solved for when asked, from the distinct
items of the history and the final vectors of items, so that known and new users are the same case.
A history without an item that has a vector gets the mean query of the training users.
Items are stored in the coordinates where the matrix that users share, sum of q q' + ridge *
identity, is the identity (nn.weighted_ridge): products with queries are the same.
Shapes: B batch, D width, I items.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ensue.config import Config
from ensue.data.cooccurrence import Incidence
from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import ConfigError
from ensue.models.base import FittedModel
from ensue.nn.jagged import last_occurrences, row_numbers
from ensue.nn.weighted_ridge import solve_rows, whiten

_INITIAL_DEVIATION = 0.1
_VANISHED = 1e-15  # lengths are up to 1; of shorter ones, products are no longer numbers to compare


class WRMFConfig(Config):
    """weight: of a click; what was not clicked has 1. seed: of the first vectors of items."""

    dim: int = Field(default=64, ge=1)
    weight: float = Field(default=5.0, ge=1.0)
    ridge: float = Field(default=10.0, gt=0.0)
    sweeps: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)


class WRMF(FittedModel):
    """Row i of `item_vectors` [I + 1, D] is item i; `mean_query` [D] of the training users."""

    Config = WRMFConfig
    item_vectors: Tensor
    mean_query: Tensor

    def __init__(self, config: WRMFConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.register_buffer("item_vectors", torch.zeros(num_items + 1, config.dim))
        self.register_buffer("mean_query", torch.zeros(config.dim))

    def fit_(self, histories: Histories) -> None:
        """Solve for users and items in turn.

        Raises:
            ConfigError: the ridge is so large that zero vectors are the solution.
        """
        incidence = Incidence.from_histories(histories, self.num_items)
        by_user = (torch.from_numpy(incidence.user_offsets), torch.from_numpy(incidence.user_items))
        by_item = (torch.from_numpy(incidence.item_offsets), torch.from_numpy(incidence.item_users))
        config = self.config
        items = initial_vectors(self.num_items + 1, config.dim, config.seed)
        items[0] = 0.0
        for _ in range(config.sweeps):
            users = half_sweep(items, *by_user, config.weight, config.ridge)
            items = half_sweep(users, *by_item, config.weight, config.ridge)
        self.item_vectors = whiten(items, config.ridge).rows
        if not self.item_vectors.abs().max() > _VANISHED:
            raise ConfigError(
                "wrmf needs a ridge below about weight * the root of the clicks of one item; "
                f"ridge={config.ridge:g} leaves no vector of this data. Lower it."
            )
        queries = solve_rows(self.item_vectors, *by_user, config.weight)
        self.mean_query = queries[queries.any(dim=1)].mean(dim=0)

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        return self.queries(batch)[0] @ self.item_vectors.T

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return the user vectors [B, D], and the lengths [B] of the histories."""
        rows = row_numbers(batch.offsets)
        distinct = last_occurrences(rows, batch.items, self.num_items + 1)
        offsets = torch.searchsorted(
            rows[distinct], torch.arange(len(batch) + 1, device=rows.device)
        )
        solved = solve_rows(self.item_vectors, offsets, batch.items[distinct], self.config.weight)
        is_blank = ~solved.any(dim=1, keepdim=True)
        return torch.where(is_blank, self.mean_query, solved), batch.offsets.diff()

    def item_table(self) -> tuple[Tensor, None]:
        """Return what queries are matched with: vectors [I + 1, D], and no biases."""
        return self.item_vectors, None


def initial_vectors(num_rows: int, dim: int, seed: int) -> Tensor:
    """Return the vectors [num_rows, D] that the first sweep starts from."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, dim, generator=generator) * _INITIAL_DEVIATION


def half_sweep(
    vectors: Tensor, offsets: Tensor, members: Tensor, weight: float, ridge: float
) -> Tensor:
    """Return the vectors [B, D] of one side, solved from those of the other side [N, D].

    Args:
        offsets: [B + 1]; row b clicked, or was clicked by, members[offsets[b]:offsets[b + 1]].
    """
    rows, root = whiten(vectors, ridge)
    return solve_rows(rows, offsets, members, weight) @ root.T
