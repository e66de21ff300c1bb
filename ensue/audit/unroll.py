"""The gradient of what comes after a training, through every step of the training.

Section 3 of Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876: fake users are in the data of a
training from a fixed start, so that what it ends in is a function of them. Reverse mode, by hand:
a step is differentiated from its state alone, so that no graph is kept. Of K tracked steps some
sqrt(K) states are stored, and the others computed again, stretch by stretch.
Departure: the paper tracks the last steps of a training only, for want of memory; None tracks all.
Shapes: F fake users, I items, K tracked steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ensue.audit.inner_steps import InnerOptimizer

State = list[list[Tensor]]  # [the parameter, *its moments] for each parameter


class UnrolledProblem(Protocol):
    """A training whose data has fake users in it; tensors are contiguous, of one type."""

    @property
    def num_steps(self) -> int:
        """Steps from the start to the end."""
        ...

    def start(self) -> list[Tensor]:
        """Return the parameters before the first step: the same values every time."""
        ...

    def gradient(self, step: int, parameters: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Set `out` to the gradient of the loss of a step, without weight decay."""
        ...

    def pull_back(
        self,
        step: int,
        parameters: Sequence[Tensor],
        directions: Sequence[Tensor],
        to_parameters: Sequence[Tensor],
        to_fakes: Tensor,
    ) -> None:
        """Add the transposed derivatives of the gradient, times directions, to the last two.

        Args:
            parameters: those that the gradient was taken at.
            directions: one for each parameter; to_parameters gets the Hessian times them.
            to_fakes: [F, I].
        """
        ...


class AutogradProblem(ABC):
    """A problem given by its loss alone, differentiated twice by autograd.

    What the loss should not be differentiated by, such as weights that depend on the fakes, it
    detaches.
    """

    num_steps: int
    fakes: Tensor  # [F, I], 0 or 1

    @abstractmethod
    def start(self) -> list[Tensor]:
        """See `UnrolledProblem.start`."""

    @abstractmethod
    def loss(self, step: int, parameters: Sequence[Tensor], fakes: Tensor) -> Tensor:
        """Return the loss [] of a step."""

    def gradient(self, step: int, parameters: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """See `UnrolledProblem.gradient`."""
        leaves = [p.detach().requires_grad_() for p in parameters]
        with torch.enable_grad():
            loss = self.loss(step, leaves, self.fakes)
        for target, value in zip(out, torch.autograd.grad(loss, leaves), strict=True):
            target.copy_(value)

    def pull_back(
        self,
        step: int,
        parameters: Sequence[Tensor],
        directions: Sequence[Tensor],
        to_parameters: Sequence[Tensor],
        to_fakes: Tensor,
    ) -> None:
        """See `UnrolledProblem.pull_back`."""
        leaves = [p.detach().requires_grad_() for p in parameters]
        fakes = self.fakes.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.loss(step, leaves, fakes)
            gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        found = torch.autograd.grad(
            gradients, [*leaves, fakes], grad_outputs=list(directions), materialize_grads=True
        )
        for target, value in zip([*to_parameters, to_fakes], found, strict=True):
            target.add_(value)


class Unroll:
    """Trains from the start, then takes a gradient back through the last steps.

    Args:
        tracked_steps: the last K steps; None is all of them, 0 none.
        stretch: steps from one stored state to the next; None is about sqrt(K). It decides memory,
            not results.

    The buffers are kept from one training to the next.
    """

    def __init__(
        self,
        problem: UnrolledProblem,
        optimizer: InnerOptimizer,
        *,
        tracked_steps: int | None = None,
        stretch: int | None = None,
    ) -> None:
        self.problem, self.optimizer = problem, optimizer
        total = problem.num_steps
        tracked = total if tracked_steps is None else min(tracked_steps, total)
        self._stretch = stretch or max(1, math.ceil(math.sqrt(tracked)))
        self._stored = list(range(total - tracked, total, self._stretch))  # steps they stand before
        self._checkpoints: list[State] = []  # of all stretches but the last
        self._states: list[State] = []  # of one stretch, and the one after it
        self._gradients: list[list[Tensor]] = []

    @torch.no_grad()
    def train(self) -> list[Tensor]:
        """Return the parameters after all steps; `pull_back` and `train` overwrite them."""
        start = self.problem.start()
        if not self._states:
            self._allocate(start)
        state, other = self._states[:2]
        for parts, values in zip(state, start, strict=True):
            parts[0].copy_(values)
            for moment in parts[1:]:
                moment.zero_()
        last = self._stored[-1] if self._stored else self.problem.num_steps
        places = {step: place for place, step in enumerate(self._stored[:-1])}
        for step in range(last):
            if step in places:
                _copy(state, self._checkpoints[places[step]])
            self._step(step, state, self._gradients[0], other)
            state, other = other, state
        self._states[:2] = state, other
        path = self._follow(last, state)
        return [parts[0] for parts in path[-1]]

    @torch.no_grad()
    def pull_back(self, to_parameters: Sequence[Tensor], to_fakes: Tensor) -> None:
        """Add to to_fakes [F, I] what the tracked steps of the last training pass on.

        Once after each training.

        Args:
            to_parameters: gradient of the trained parameters; in the end, of those before the first
                tracked step.
        """
        moments = range(self.optimizer.num_moments)
        adjoints = [[to, *(torch.zeros_like(to) for _ in moments)] for to in to_parameters]
        directions = [torch.empty_like(to) for to in to_parameters]
        path = self._states
        for place in reversed(range(len(self._stored))):
            first = self._stored[place]
            count = min(self._stretch, self.problem.num_steps - first)
            if place < len(self._checkpoints):
                path = self._follow(first, self._checkpoints[place])
            for back in reversed(range(count)):
                before = [parts[0] for parts in path[back]]
                gradients, after = self._gradients[back], path[back + 1]
                for own in zip(before, gradients, after, adjoints, directions, strict=True):
                    self.optimizer.pull_back(first + back, *own)
                self.problem.pull_back(first + back, before, directions, to_parameters, to_fakes)

    def _follow(self, first: int, state: State) -> list[State]:
        """Return a state and those after the steps of its stretch, and keep their gradients."""
        count = min(self._stretch, self.problem.num_steps - first)
        path = [state, *self._states[1 : count + 1]]
        for place in range(count):
            self._step(first + place, path[place], self._gradients[place], path[place + 1])
        return path

    def _step(self, step: int, state: State, gradients: list[Tensor], after: State) -> None:
        self.problem.gradient(step, [parts[0] for parts in state], gradients)
        for own, gradient, new in zip(state, gradients, after, strict=True):
            self.optimizer.step(step, own, gradient, new)

    def _allocate(self, like: Sequence[Tensor]) -> None:
        parts = range(1 + self.optimizer.num_moments)

        def state() -> State:
            return [[torch.empty_like(tensor) for _ in parts] for tensor in like]

        self._states = [state() for _ in range(self._stretch + 1)]
        self._checkpoints = [state() for _ in self._stored[:-1]]
        self._gradients = [[torch.empty_like(t) for t in like] for _ in range(self._stretch)]


def _copy(state: State, out: State) -> None:
    for parts, targets in zip(state, out, strict=True):
        for part, target in zip(parts, targets, strict=True):
            target.copy_(part)
