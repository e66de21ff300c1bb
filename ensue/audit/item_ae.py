"""ItemAE: an autoencoder of the clicks of each item, as a surrogate.

Sedhain, Menon, Sanner and Xie, "AutoRec", WWW 2015 (the autoencoder of items); Tang, Wen and Wang,
RecSys 2020, arXiv:2008.04876. An item is the set of its users. The first layer adds their rows of a
table, the last one is a product with their rows of another: where nobody clicked every weight is 1,
so the loss is that of a factorization with the hidden layer as the vectors of items, and no matrix
[users, items] is made. Only the cells of fake users are all looked at.
The scores of real users depend on fake cells in two ways: by the training, and directly, since fake
users are inputs of the trained model. With tracked_epochs=0 the gradient is the second part alone.
Departure: the first and the last layer, where users are, are differentiated by hand, and those
between by autograd.
Shapes: U real users, F fake users, N = U + F, I items, B items of a batch, H width of the first and
the last hidden layer, D = H + 1 with the bias, R clicks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ensue.audit.clicks import Clicks
from ensue.audit.inner_steps import Adam
from ensue.audit.learned import Reply
from ensue.audit.target_loss import target_loss
from ensue.audit.unroll import Unroll
from ensue.audit.wrmf_sgd import Weights, WrmfProblem
from ensue.config import Config
from ensue.data.cooccurrence import transpose
from ensue.nn.bags import bag_sum
from ensue.nn.jagged import take_rows

_SELU_SCALE, _SELU_FLOOR = 1.0507009873554805, 1.7580993408473766  # the floor is scale * alpha


class ItemAeConfig(Config):
    """Settings of the surrogate; the defaults are the authors'.

    hidden: widths of the encoder; the decoder has them in reverse. weight: of a click's squared
    error, where a cell without a click has 1. weights: "constant" ones are no function of a fake
    cell in the gradient; "relaxed" ones go from 1 to `weight` with it.
    tracked_epochs: the last ones the gradient goes through; None is all, 0 leaves the training out.
    Memory grows with the root of their steps, and numbers grow large in the first ones: Adam moves
    rows of users without a click in a batch by tiny gradients, which a click changes out of
    proportion. k: of the hit rate.
    """

    hidden: tuple[int, ...] = Field(default=(256, 128), min_length=1)
    activation: Literal["tanh", "selu"] = "tanh"
    epochs: int = Field(default=50, ge=1)
    batch_items: int = Field(default=2048, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-6, ge=0)
    weight: float = Field(default=20.0, ge=1)
    weights: Weights = "constant"
    tracked_epochs: int | None = Field(default=5, ge=0)
    k: int = Field(default=50, ge=1)


class _Activation(NamedTuple):
    """slope: the derivative, given the argument and the value there."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


def _selu_slope(x: Tensor, value: Tensor) -> Tensor:
    return torch.where(x > 0, _SELU_SCALE, value + _SELU_FLOOR)


ACTIVATIONS = {
    "tanh": _Activation(torch.tanh, lambda _, value: 1 - value * value),
    "selu": _Activation(F.selu, _selu_slope),
}


class _Batch(NamedTuple):
    """Users of some items: those of item items[b] are users[offsets[b]:offsets[b + 1]]."""

    items: Tensor
    offsets: Tensor
    users: Tensor


class ItemAeProblem:
    """The training of the autoencoder, an `UnrolledProblem`; float32 or float64.

    Parameters are the rows of users in the first layer [N, H] and its bias [H], weights and bias of
    each layer between, and the rows of users in the last layer, with their biases [N, D].

    Args:
        batches: items of each step.
        start: the parameters before the first step; the last F users are fake.
    """

    def __init__(
        self,
        real: Clicks,
        batches: Sequence[Tensor],
        start: Sequence[Tensor],
        *,
        config: ItemAeConfig,
    ) -> None:
        self.num_steps = len(batches)
        self._real, self._batches, self._start, self._config = real, batches, start, config
        self._activation = ACTIVATIONS[config.activation]
        self.place(np.zeros((len(start[0]) - real.num_users, real.num_items), np.bool_))

    def place(self, fakes: NDArray[np.bool_]) -> None:
        """Take these fake users [F, I]."""
        clicks = self._real.join(Clicks.from_dense(fakes))
        offsets, users = transpose(clicks.offsets, clicks.columns, clicks.num_items - 1)
        self._offsets, self._users = torch.from_numpy(offsets), torch.from_numpy(users)
        self._fakes = torch.from_numpy(fakes)

    def start(self) -> list[Tensor]:
        """See `UnrolledProblem.start`."""
        return list(self._start)

    def gradient(self, step: int, parameters: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """See `UnrolledProblem.gradient`."""
        batch = self._batch(self._batches[step])
        for tensor in out[:-1]:
            tensor.zero_()
        with torch.enable_grad():
            inner = _leaves(parameters[:-1], out[:-1])
            vectors = self._vectors(self._sums(inner, batch), inner)
        wide = _with_column(vectors.detach(), 1.0)
        to_vectors = torch.empty_like(wide)
        self._cells(batch, wide, parameters[-1]).gradient(
            0, [wide, parameters[-1]], [to_vectors, out[-1]]
        )
        vectors.backward(to_vectors[:, :-1])  # type: ignore[no-untyped-call]

    def pull_back(
        self,
        step: int,
        parameters: Sequence[Tensor],
        directions: Sequence[Tensor],
        to_parameters: Sequence[Tensor],
        to_fakes: Tensor,
    ) -> None:
        """See `UnrolledProblem.pull_back`.

        The gradient times directions is what the loss changes by along them. It depends on the
        vectors of items, on their own change, and on the last layer.
        """
        batch = self._batch(self._batches[step])
        last, last_direction = parameters[-1], directions[-1]
        with torch.enable_grad():
            inner = _leaves(parameters[:-1], to_parameters[:-1])
            sums = self._sums(inner, batch)
            sums.retain_grad()
            changes = self._sums(directions, batch).detach().requires_grad_()
            vectors, moved = self._vectors_and_change(sums, changes, inner, directions)
        wide, wide_moved = _with_column(vectors.detach(), 1.0), _with_column(moved.detach(), 0.0)
        cells = self._cells(batch, wide, last)
        to_vectors, to_moved = torch.zeros_like(wide), torch.empty_like(wide)
        none = to_fakes[:0]
        cells.pull_back(
            0, [wide, last], [wide_moved, last_direction], [to_vectors, to_parameters[-1]], none
        )
        cells.gradient(0, [wide, last], [to_moved, torch.empty_like(last)])
        torch.autograd.backward([vectors, moved], [to_vectors[:, :-1], to_moved[:, :-1]])
        fakes = slice(self._real.num_users, None)
        found = parameters[0][fakes] @ _grad(sums).T
        found.addmm_(directions[0][fakes], _grad(changes).T)
        change = last_direction[fakes] @ wide.T
        change.addmm_(last[fakes], wide_moved.T)
        found += change * self._slopes(batch.items, last[fakes], wide)
        to_fakes[:, batch.items] += found

    def item_vectors(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return what the last layer is multiplied with [I, D], a column of ones in the end."""
        blocks = [
            self._vectors(self._sums(parameters, self._batch(items)), parameters)
            for items in self._blocks()
        ]
        return _with_column(torch.cat(blocks), 1.0)

    def pull_back_vectors(
        self,
        parameters: Sequence[Tensor],
        to_vectors: Tensor,
        to_parameters: Sequence[Tensor],
        to_fakes: Tensor,
    ) -> None:
        """Add to the last two what changes of `item_vectors` [I, D] come from."""
        for items in self._blocks():
            with torch.enable_grad():
                inner = _leaves(parameters[:-1], to_parameters[:-1])
                sums = self._sums(inner, self._batch(items))
                sums.retain_grad()
                vectors = self._vectors(sums, inner)
            vectors.backward(to_vectors[items, :-1])  # type: ignore[no-untyped-call]
            to_fakes[:, items] += parameters[0][self._real.num_users :] @ _grad(sums).T

    def _blocks(self) -> Sequence[Tensor]:
        """Return all items, as many at a time as in a step."""
        return torch.split(torch.arange(self._real.num_items), self._config.batch_items)

    def _batch(self, items: Tensor) -> _Batch:
        positions, _ = take_rows(self._offsets, items)
        lengths = self._offsets[items + 1] - self._offsets[items]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return _Batch(items, offsets, self._users[positions])

    def _cells(self, batch: _Batch, wide: Tensor, last: Tensor) -> WrmfProblem:
        """Return the loss as that of a factorization, with items in place of users."""
        config = self._config
        by_item = Clicks(batch.offsets.numpy(), batch.users.numpy(), len(last))
        rows = np.arange(len(batch.items))
        return WrmfProblem(
            by_item, [rows], (wide, last), weight=config.weight, weights=config.weights
        )

    def _sums(self, parameters: Sequence[Tensor], batch: _Batch) -> Tensor:
        """Return the first layer before its activation [B, H]."""
        table, bias = parameters[:2]
        ones = table.new_ones(len(batch.users))
        return bag_sum(table, batch.users.long(), batch.offsets, ones) + bias

    def _vectors(self, sums: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Return the last hidden layer [B, H]."""
        value = self._activation.value(sums)
        for weight, bias in _layers(parameters):
            value = self._activation.value(torch.addmm(bias, value, weight))
        return value

    def _vectors_and_change(
        self,
        sums: Tensor,
        changes: Tensor,
        parameters: Sequence[Tensor],
        directions: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the last hidden layer [B, H], and what it changes by along directions [B, H]."""
        activation = self._activation
        value = activation.value(sums)
        change = activation.slope(sums, value) * changes
        moves = _layers(directions)
        for (weight, bias), (weight_move, bias_move) in zip(
            _layers(parameters), moves, strict=True
        ):
            sums = torch.addmm(bias, value, weight)
            changes = torch.addmm(bias_move, value, weight_move) + change @ weight
            value = activation.value(sums)
            change = activation.slope(sums, value) * changes
        return value, change

    def _slopes(self, items: Tensor, fakes: Tensor, wide: Tensor) -> Tensor:
        """Return what a fake cell adds to the derivative of the loss by its score [F, B]."""
        clicked = self._fakes[:, items].to(wide.dtype)
        extra = self._config.weight - 1
        slopes = -2 * (1 + extra * clicked)
        if self._config.weights == "relaxed":
            slopes -= 2 * extra * (clicked - fakes @ wide.T)
        return slopes


class ItemAe:
    """The surrogate; float32."""

    name = "item-ae"

    def __init__(
        self,
        real: Clicks,
        targets: NDArray[np.int64],
        config: ItemAeConfig,
        seed: int,
        *,
        num_fakes: int,
    ) -> None:
        self._real, self._targets, self._config = real, targets, config
        generator = torch.Generator().manual_seed(seed)
        start = initial_parameters(real.num_users + num_fakes, config.hidden, generator)
        batches: list[Tensor] = []
        for _ in range(config.epochs):
            order = torch.randperm(real.num_items, generator=generator)
            batches += torch.split(order, config.batch_items)
        self._problem = ItemAeProblem(real, batches, start, config=config)
        steps = len(batches) // config.epochs
        tracked = None if config.tracked_epochs is None else config.tracked_epochs * steps
        optimizer = Adam(config.lr, config.weight_decay)
        self._unroll = Unroll(self._problem, optimizer, tracked_steps=tracked)

    def reply(self, fakes: NDArray[np.bool_]) -> Reply:
        """See `Surrogate.reply`."""
        problem, num_real = self._problem, self._real.num_users
        problem.place(fakes)
        parameters = self._unroll.train()
        with torch.no_grad():
            items = problem.item_vectors(parameters)
        found = target_loss(
            parameters[-1][:num_real], items, self._real, self._targets, k=self._config.k
        )
        to_parameters = [torch.zeros_like(p) for p in parameters]
        to_parameters[-1][:num_real] = found.to_users
        to_fakes = torch.zeros(fakes.shape)
        problem.pull_back_vectors(parameters, found.to_items, to_parameters, to_fakes)
        self._unroll.pull_back(to_parameters, to_fakes)
        return Reply(found.loss, to_fakes.numpy(), found.hit_rate, found.mean_rank)


def initial_parameters(
    num_users: int, hidden: Sequence[int], generator: torch.Generator
) -> list[Tensor]:
    """Return parameters drawn as those of linear layers in PyTorch: +-1 / sqrt(inputs)."""
    widths = [num_users, *hidden, *hidden[-2::-1]]
    parameters = []
    for inputs, outputs in pairwise(widths):
        rows = torch.rand(inputs + 1, outputs, generator=generator)
        parameters += [_spread(rows[:-1], inputs), _spread(rows[-1], inputs)]
    last = torch.rand(num_users, widths[-1] + 1, generator=generator)
    return [*parameters, _spread(last, widths[-1])]


def _spread(uniform: Tensor, inputs: int) -> Tensor:
    """Return numbers from 0 to 1 as numbers from -1 / sqrt(inputs) to 1 / sqrt(inputs)."""
    return (2 * uniform - 1) / inputs**0.5


def _layers(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of each layer between the first and the last.

    Args:
        parameters: an even number of them without the last layer, an odd one with it.
    """
    between = parameters[2 : len(parameters) - len(parameters) % 2]
    return list(zip(between[::2], between[1::2], strict=True))


def _leaves(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters as leaves of a graph whose backward pass adds to `gradients`."""
    leaves = [p.detach().requires_grad_() for p in parameters]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient
    return leaves


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _with_column(rows: Tensor, value: float) -> Tensor:
    """Return rows [B, H] with one more column [B, D]."""
    return F.pad(rows, (0, 1), value=value)
