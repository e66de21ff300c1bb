"""Steps of the optimizers that train a surrogate, and the same steps differentiated in reverse.

Adam after Kingma and Ba, ICLR 2015, arXiv:1412.6980, with the weight decay added to the gradient.
Every element moves in every step, also those of users outside the batch: moments and weight decay
have no pause.
Float32 in memory takes one compiled pass over all arrays, everything else the tensor operations
beside it; tests hold them equal. Adjoint is what a loss after the step changes by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numba
import numpy as np
import torch
from torch import Tensor

from ensue.nn.stretches import in_stretches

_compile: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
_STRETCH = 1 << 18  # elements of a thread, at least


class InnerOptimizer(Protocol):
    """What moves one parameter; a state is [the parameter, *num_moments tensors of its shape]."""

    @property
    def num_moments(self) -> int:
        """Tensors beside the parameter."""
        ...

    def step(
        self, index: int, state: Sequence[Tensor], gradient: Tensor, after: Sequence[Tensor]
    ) -> None:
        """Set the state after step `index` (0 the first); it shares no memory with the one before.

        Args:
            gradient: of the loss, without weight decay.
        """
        ...

    def pull_back(
        self,
        index: int,
        parameter: Tensor,
        gradient: Tensor,
        after: Sequence[Tensor],
        adjoint: Sequence[Tensor],
        direction: Tensor,
    ) -> None:
        """Turn the adjoint of the state after the step into that of the state before, in place.

        What comes through the gradient of the loss is missing: it is the transposed Hessian, times
        the adjoint of the gradient, to which `direction` is set.

        Args:
            parameter: before the step.
            after: the state that `step` left; of it only the moments are read.
        """
        ...


@dataclass(frozen=True)
class GradientDescent:
    """Plain gradient descent."""

    lr: float
    weight_decay: float = 0.0
    num_moments: ClassVar[int] = 0

    def step(
        self, index: int, state: Sequence[Tensor], gradient: Tensor, after: Sequence[Tensor]
    ) -> None:
        """Set after = state - lr (gradient + weight_decay state)."""
        torch.mul(state[0], 1 - self.lr * self.weight_decay, out=after[0])
        after[0].sub_(gradient, alpha=self.lr)

    def pull_back(
        self,
        index: int,
        parameter: Tensor,
        gradient: Tensor,
        after: Sequence[Tensor],
        adjoint: Sequence[Tensor],
        direction: Tensor,
    ) -> None:
        """See `InnerOptimizer.pull_back`."""
        torch.mul(adjoint[0], -self.lr, out=direction)
        adjoint[0].add_(direction, alpha=self.weight_decay)


@dataclass(frozen=True)
class Adam:
    """Adam with eps added after the correction of the bias, as in PyTorch."""

    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    num_moments: ClassVar[int] = 2

    def step(
        self, index: int, state: Sequence[Tensor], gradient: Tensor, after: Sequence[Tensor]
    ) -> None:
        """See `InnerOptimizer.step`; the state is [parameter, mean, square]."""
        run = _kernel(adam_step, step_in_tensors, gradient)
        run((*state, gradient, *after), self._numbers(index))

    def pull_back(
        self,
        index: int,
        parameter: Tensor,
        gradient: Tensor,
        after: Sequence[Tensor],
        adjoint: Sequence[Tensor],
        direction: Tensor,
    ) -> None:
        """See `InnerOptimizer.pull_back`."""
        run = _kernel(adam_pull_back, pull_back_in_tensors, gradient)
        run((parameter, gradient, *after[1:], *adjoint, direction), self._numbers(index))

    def _numbers(self, index: int) -> tuple[float, ...]:
        """Return weight_decay, the betas, the rate without bias, eps and the root of the bias.

        With c = 1 - beta^t, lr (m / c1) / (sqrt(v / c2) + eps) is rate m / (sqrt(v) + small).
        """
        first, second = (1 - beta ** (index + 1) for beta in self.betas)
        root = math.sqrt(second)
        return self.weight_decay, *self.betas, self.lr * root / first, self.eps * root


def _kernel(
    kernel: Any, in_tensors: Callable[..., None], like: Tensor
) -> Callable[[Sequence[Tensor], tuple[float, ...]], None]:
    """Return what applies the kernel, or the tensor operations where it cannot."""
    if like.device.type != "cpu" or like.dtype != torch.float32:
        return lambda tensors, numbers: in_tensors(*tensors, *numbers)

    def run(tensors: Sequence[Tensor], numbers: tuple[float, ...]) -> None:
        arrays = [tensor.view(-1).numpy() for tensor in tensors]
        in_stretches(kernel, arrays, tuple(np.float32(n) for n in numbers), least=_STRETCH)

    return run


@_compile
def adam_step(  # type: ignore[no-untyped-def]
    old, old_mean, old_square, gradient, new, new_mean, new_square, decay, beta1, beta2, rate, small
):
    """Set the new state; `rate` and `small` have the correction of the bias in them."""
    rest1, rest2 = np.float32(1) - beta1, np.float32(1) - beta2
    for i in range(len(old)):
        value = old[i]
        g = gradient[i] + decay * value
        mean = beta1 * old_mean[i] + rest1 * g
        square = beta2 * old_square[i] + rest2 * g * g
        new[i] = value - rate * mean / (np.sqrt(square) + small)
        new_mean[i] = mean
        new_square[i] = square


def step_in_tensors(
    old: Tensor,
    old_mean: Tensor,
    old_square: Tensor,
    gradient: Tensor,
    new: Tensor,
    new_mean: Tensor,
    new_square: Tensor,
    decay: float,
    beta1: float,
    beta2: float,
    rate: float,
    small: float,
) -> None:
    """Do what `adam_step` does."""
    g = gradient + decay * old
    torch.add(beta1 * old_mean, g, alpha=1 - beta1, out=new_mean)
    torch.addcmul(beta2 * old_square, g, g, value=1 - beta2, out=new_square)
    torch.sub(old, rate * new_mean / (new_square.sqrt() + small), out=new)


@_compile
def adam_pull_back(  # type: ignore[no-untyped-def]
    value,
    gradient,
    mean,
    square,
    to_value,
    to_mean,
    to_square,
    direction,
    decay,
    beta1,
    beta2,
    rate,
    small,
):
    """Turn the adjoint back, and set the direction; mean and square are those after the step."""
    zero, half = np.float32(0), np.float32(0.5)
    rest1, rest2 = np.float32(1) - beta1, np.float32(2) * (np.float32(1) - beta2)
    for i in range(len(value)):
        g = gradient[i] + decay * value[i]
        root = np.sqrt(square[i])
        share = rate * to_value[i] / (root + small)
        own_mean = to_mean[i] - share
        # The root has no derivative at 0, where mean and gradient are 0 as well.
        steep = half * share * mean[i] / ((root + small) * root) if square[i] > zero else zero
        own_square = to_square[i] + steep
        direct = rest1 * own_mean + rest2 * g * own_square
        direction[i] = direct
        to_value[i] += decay * direct
        to_mean[i] = beta1 * own_mean
        to_square[i] = beta2 * own_square


def pull_back_in_tensors(
    value: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    to_value: Tensor,
    to_mean: Tensor,
    to_square: Tensor,
    direction: Tensor,
    decay: float,
    beta1: float,
    beta2: float,
    rate: float,
    small: float,
) -> None:
    """Do what `adam_pull_back` does."""
    g = gradient + decay * value
    root = square.sqrt()
    share = rate * to_value / (root + small)
    own_mean = to_mean - share
    steep = 0.5 * share * mean / ((root + small) * root)
    own_square = to_square + torch.where(square > 0, steep, 0.0)
    torch.add((1 - beta1) * own_mean, 2 * (1 - beta2) * g * own_square, out=direction)
    to_value.add_(direction, alpha=decay)
    torch.mul(own_mean, beta1, out=to_mean)
    torch.mul(own_square, beta2, out=to_square)
