"""WRMF trained by Adam: the surrogate whose gradient goes through every step of its training.

Hu, Koren and Volinsky, ICDM 2008 (the loss); Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876.
Where a user did not click, every weight is 1. The loss of a batch is therefore a product of small
matrices and a sum over clicks: exact, without a matrix [users, items]. Only the cells of fake users
are all looked at, since a cell without a click has a gradient as well.
Departures: all steps are tracked by default; a batch of users is not made dense.
Shapes: U real users, F fake users, N = U + F, I items, D width, B users of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ensue.audit.clicks import Clicks
from ensue.audit.inner_steps import Adam
from ensue.audit.learned import Reply
from ensue.audit.target_loss import target_loss
from ensue.audit.unroll import Unroll
from ensue.audit.wrmf_kernels import Halves, add_gradient, add_hessian_product, in_halves
from ensue.config import Config

Weights = Literal["constant", "relaxed"]


class WrmfSgdConfig(Config):
    """Settings of the surrogate; the defaults are the authors', but for tracked_epochs.

    weight: of a click's squared error, where a cell without a click has 1. weights: "constant"
    ones are no function of a fake cell in the gradient; "relaxed" ones go from 1 to `weight` with
    it, which is the complete derivative and a far weaker attack.
    tracked_epochs: the last ones the gradient goes through; None is all. The first time that Adam
    sees a gradient it takes its sign: through the first epoch the gradient has spikes, where an
    element of it was near 0, and epochs - 1 leaves them out. k: of the hit rate.
    """

    dim: int = Field(default=128, ge=1)
    epochs: int = Field(default=50, ge=1)
    batch_users: int = Field(default=2048, ge=1)
    lr: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    weight: float = Field(default=20.0, ge=1)
    init_std: float = Field(default=0.1, gt=0)
    weights: Weights = "constant"
    tracked_epochs: int | None = Field(default=None, ge=1)
    k: int = Field(default=50, ge=1)


class WrmfProblem:
    """A training of users [N, D] and items [I, D], the last F users fake; float32 or float64.

    Args:
        batches: rows of the users in each step.
        start: users and items before the first step.
    """

    def __init__(
        self,
        real: Clicks,
        batches: Sequence[NDArray[np.int64]],
        start: tuple[Tensor, Tensor],
        *,
        weight: float,
        weights: Weights,
    ) -> None:
        self.num_steps = len(batches)
        self._real, self._batches, self._start = real, batches, start
        self._weight, self._is_relaxed = weight, weights == "relaxed"
        num_fakes = len(start[0]) - real.num_users
        self.place(np.zeros((num_fakes, real.num_items), np.bool_))

    def place(self, fakes: NDArray[np.bool_]) -> None:
        """Take these fake users [F, I]."""
        self._clicks = Halves.of(self._real.join(Clicks.from_dense(fakes)))
        self._fakes = torch.from_numpy(fakes)

    def start(self) -> list[Tensor]:
        """Return users [N, D] and items [I, D]."""
        return list(self._start)

    def gradient(self, step: int, parameters: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """See `UnrolledProblem.gradient`."""
        self.loss_and_gradient(step, parameters, out)

    def loss_and_gradient(
        self, step: int, parameters: Sequence[Tensor], out: Sequence[Tensor]
    ) -> float:
        """Return the loss of a step, a sum over its users, and set `out` to its gradient."""
        users, items = parameters
        to_users, to_items = out
        rows = torch.from_numpy(self._batches[step])
        batch = users[rows]  # [B, D]
        slopes = batch @ (2 * (items.T @ items))
        torch.mm(items, 2 * (batch.T @ batch), out=to_items)
        loss = 0.5 * float(torch.dot(batch.flatten(), slopes.flatten()))
        loss += sum(self._add(add_gradient, step, [users, items, to_items], slopes))
        to_users.zero_()
        to_users[rows] = slopes
        return loss

    def pull_back(
        self,
        step: int,
        parameters: Sequence[Tensor],
        directions: Sequence[Tensor],
        to_parameters: Sequence[Tensor],
        to_fakes: Tensor,
    ) -> None:
        """See `UnrolledProblem.pull_back`."""
        (users, items), (user_directions, item_directions) = parameters, directions
        to_users, to_items = to_parameters
        rows = torch.from_numpy(self._batches[step])
        batch, moved = users[rows], user_directions[rows]
        of_items, of_users = items.T @ item_directions, batch.T @ moved  # [D, D]
        products = moved @ (2 * (items.T @ items))
        products.addmm_(batch, 2 * (of_items + of_items.T))
        to_items.addmm_(item_directions, 2 * (batch.T @ batch))
        to_items.addmm_(items, 2 * (of_users + of_users.T))
        tables = [*parameters, *directions, to_items]
        self._add(add_hessian_product, step, tables, products)
        to_users.index_add_(0, rows, products)
        is_fake = rows >= self._real.num_users
        fakes = rows[is_fake] - self._real.num_users
        if len(fakes):
            changes = moved[is_fake] @ items.T
            changes.addmm_(batch[is_fake], item_directions.T)
            to_fakes.index_add_(0, fakes, changes * self._slopes(fakes, batch[is_fake], items))

    def _slopes(self, fakes: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """Return what a cell adds to the derivative by its score, for fake users [f]: [f, I]."""
        clicked = self._fakes[fakes].to(users.dtype)
        extra = self._weight - 1
        slopes = -2 * (1 + extra * clicked)
        if self._is_relaxed:
            slopes -= 2 * extra * (clicked - users @ items.T)
        return slopes

    def _add(self, kernel: Any, step: int, tables: Sequence[Tensor], to_batch: Tensor) -> list[Any]:
        """Run a kernel over the clicks of a batch."""
        arrays = [table.numpy() for table in tables]
        weight = arrays[0].dtype.type(self._weight)
        return in_halves(
            kernel, self._batches[step], self._clicks, [weight, *arrays], to_batch.numpy()
        )


class WrmfSgd:
    """The surrogate; float32."""

    name = "wrmf-sgd"

    def __init__(
        self,
        real: Clicks,
        targets: NDArray[np.int64],
        config: WrmfSgdConfig,
        seed: int,
        *,
        num_fakes: int,
    ) -> None:
        self._real, self._targets, self._config = real, targets, config
        self._shape = (num_fakes, real.num_items)
        generator = torch.Generator().manual_seed(seed)
        num_users = real.num_users + num_fakes
        users, items = (
            config.init_std * torch.randn(size, config.dim, generator=generator)
            for size in (num_users, real.num_items)
        )
        batches = _shuffled(num_users, config, generator)
        self._problem = WrmfProblem(
            real, batches, (users, items), weight=config.weight, weights=config.weights
        )
        per_epoch = len(batches) // config.epochs
        tracked = None if config.tracked_epochs is None else config.tracked_epochs * per_epoch
        optimizer = Adam(config.lr, config.weight_decay)
        self._unroll = Unroll(self._problem, optimizer, tracked_steps=tracked)

    def train(self, fakes: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Return real users [U, D] and items [I, D] after a training; the next overwrites them."""
        self._problem.place(fakes)
        users, items = self._unroll.train()
        return users[: self._real.num_users], items

    def reply(self, fakes: NDArray[np.bool_]) -> Reply:
        """See `Surrogate.reply`."""
        users, items = self.train(fakes)
        found = target_loss(users, items, self._real, self._targets, k=self._config.k)
        to_users = torch.zeros(len(users) + len(fakes), users.shape[1])
        to_users[: len(users)] = found.to_users
        to_fakes = torch.zeros(self._shape)
        self._unroll.pull_back([to_users, found.to_items], to_fakes)
        return Reply(found.loss, to_fakes.numpy(), found.hit_rate, found.mean_rank)


def _shuffled(
    num_users: int, config: WrmfSgdConfig, generator: torch.Generator
) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of all epochs, shuffled in each epoch."""
    batches: list[NDArray[np.int64]] = []
    for _ in range(config.epochs):
        order = torch.randperm(num_users, generator=generator)
        batches += [rows.numpy() for rows in torch.split(order, config.batch_users)]
    return batches
