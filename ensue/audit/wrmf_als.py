"""WRMF by alternating least squares: a surrogate whose gradient goes through the last item step.

Hu, Koren and Volinsky, ICDM 2008; Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876. With the users
held fixed, the vector of item v is M^-1 P'Cx, M = P'CP + ridge * identity, so that by the cell x of
fake user f the loss changes by

    c (p_f . y_v)                                   where c = 1 + (weight - 1) x is held fixed
    (c + (weight - 1) (x - p_f . q_v)) (p_f . y_v)  where it depends on x

Here y_v = M^-1 P'g_v, with the derivative g_v of the loss by the scores of v. No graph is built:
the items are solved for once more, with other right-hand sides.
Shapes: U real users, F fake users, N = U + F, I items, D width, R clicks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ensue.audit.clicks import Clicks, both_ways
from ensue.audit.learned import Reply
from ensue.audit.target_loss import target_loss
from ensue.config import Config
from ensue.models.baselines.wrmf import half_sweep, initial_vectors
from ensue.nn.weighted_ridge import solve_rows, whiten


class WrmfAlsConfig(Config):
    """Settings of the surrogate; the defaults are the authors'.

    weight: of a click's squared error, where a cell without a click has 1. weights: "constant"
    ones are no function of a fake cell in the gradient; "relaxed" ones go from 1 to `weight` with
    it. k: of the hit rate.
    """

    dim: int = Field(default=128, ge=1)
    sweeps: int = Field(default=10, ge=1)
    weight: float = Field(default=20.0, ge=1)
    ridge: float = Field(default=0.05, gt=0)
    weights: Literal["constant", "relaxed"] = "constant"
    k: int = Field(default=50, ge=1)


class WrmfAls:
    """The surrogate; float32."""

    name = "wrmf-als"

    def __init__(
        self,
        real: Clicks,
        targets: NDArray[np.int64],
        config: WrmfAlsConfig,
        seed: int,
        *,
        num_fakes: int,
    ) -> None:
        self._real, self._targets, self._config = real, targets, config
        self._start = initial_vectors(real.num_items, config.dim, seed)

    def reply(self, fakes: NDArray[np.bool_]) -> Reply:
        """See `Surrogate.reply`."""
        config = self._config
        by_user, by_item = both_ways(self._real.join(Clicks.from_dense(fakes)))
        items = self._start
        for sweep in range(config.sweeps):
            users = half_sweep(items, *by_user, config.weight, config.ridge)
            if sweep < config.sweeps - 1:
                items = half_sweep(users, *by_item, config.weight, config.ridge)
        # Scores are products in these coordinates too, and the last step is solved in them.
        users = whiten(users, config.ridge).rows
        items = solve_rows(users, *by_item, config.weight)
        num_real = self._real.num_users
        found = target_loss(users[:num_real], items, self._real, self._targets, k=config.k)
        moved = solve_rows(users, *by_item, config.weight, found.to_items)
        cells = torch.from_numpy(fakes)
        is_relaxed = config.weights == "relaxed"
        gradient = cell_gradient(users[num_real:], items, moved, cells, config.weight, is_relaxed)
        return Reply(found.loss, gradient.numpy(), found.hit_rate, found.mean_rank)


def cell_gradient(
    fakes: Tensor, items: Tensor, moved: Tensor, cells: Tensor, weight: float, is_relaxed: bool
) -> Tensor:
    """Return the gradient [F, I] by the cells of fake users, through the vectors of the items.

    Args:
        fakes: [F, D], vectors of the fake users, which are held fixed.
        items: [I, D], solved from the clicks of all users.
        moved: [I, D], M^-1 times the derivative of the loss by each item: y above.
        cells: [F, I], 0 or 1.
    """
    clicked = cells.to(fakes.dtype)
    slopes = 1 + (weight - 1) * clicked
    if is_relaxed:
        slopes += (weight - 1) * (clicked - fakes @ items.T)
    return slopes * (fakes @ moved.T)
