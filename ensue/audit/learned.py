"""Fake users found by the gradient of a surrogate: the outer loop of a learned attack.

Tang, Wen and Wang, "Revisiting adversarially learned injection attacks against recommender
systems", RecSys 2020, arXiv:2008.04876. The surrogate is trained from scratch on real and fake
users, says how far the targets came, and by which cells they would come further.
Departures: the best fake users are chosen by what all real users see, not those with test items;
what the last update makes is tried as well; users to copy are chosen at random by default.
Shapes: U real users, F fake users, I items, S targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ensue.audit.base import AttackResult, AttackStep
from ensue.audit.clicks import Clicks
from ensue.audit.projection import FakeUpdate
from ensue.config import Config
from ensue.errors import UsageError


class Reply(NamedTuple):
    """What a surrogate says of fake users; see `AttackStep` for loss, hit_rate and mean_rank.

    gradient: [F, I] float32, of the loss by the cells of the fake users.
    """

    loss: float
    gradient: NDArray[np.float32]
    hit_rate: float
    mean_rank: float


class Surrogate(Protocol):
    """A model that the attacker trains in place of the one attacked."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    def reply(self, fakes: NDArray[np.bool_]) -> Reply:
        """Train from the same start with fake users [F, I], and differentiate."""
        ...


class MakeSurrogate(Protocol):
    """Makes the surrogate of an attack, its settings already chosen."""

    def __call__(
        self, real: Clicks, targets: NDArray[np.int64], *, seed: int, num_fakes: int
    ) -> Surrogate:
        """Return a surrogate for fake users of one number."""
        ...


class OuterConfig(Config):
    """Settings of the outer loop; the defaults are the authors' for WRMF by SGD.

    threshold: a cell is clicked where the step would take it above. click_targets: every fake user
    clicks every target. normalize: rows of the gradient to length 1. limit: on the length of rows,
    against gradients that explode on their way through the training. start: which users of at most
    max_start_clicks clicks are copied; "first" as the authors did. select: what the best fake
    users are the best by, the surrogate's hit rate (then its loss), or its loss.
    """

    iterations: int = Field(default=30, ge=0)
    lr: float = Field(default=1.0, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    threshold: float = Field(default=0.05, gt=0, lt=1)
    click_targets: bool = False
    normalize: bool = True
    limit: float | None = Field(default=None, gt=0)
    start: Literal["random", "first"] = "random"
    max_start_clicks: int = Field(default=100, ge=1)
    select: Literal["hit_rate", "loss"] = "hit_rate"


class LearnedAttack:
    """Fake users by gradient descent on what a surrogate says; an `Attack`."""

    def __init__(self, name: str, make_surrogate: MakeSurrogate, config: OuterConfig) -> None:
        self.name, self._make, self._config = name, make_surrogate, config

    def run(
        self,
        real: Clicks,
        targets: NDArray[np.int64],
        num_fakes: int,
        *,
        seed: int,
        watch: Callable[[AttackStep], None] | None = None,
    ) -> AttackResult:
        """See `Attack.run`; iteration 0 is of the copied users.

        Raises:
            UsageError: targets that are no distinct columns, no fake user, no user to copy, or a
                surrogate whose training or gradient diverged.
        """
        config = self._config
        _check(real, targets, num_fakes)
        surrogate = self._make(real, targets, seed=seed, num_fakes=num_fakes)
        always = targets if config.click_targets else targets[:0]
        update = FakeUpdate(
            lr=config.lr,
            momentum=config.momentum,
            threshold=config.threshold,
            is_normalized=config.normalize,
            limit=config.limit,
            always=always,
        )
        fakes = copied_users(real, num_fakes, config, seed=seed)
        fakes[:, always] = True
        best_fakes, best, num_changed = fakes, 0, 0
        steps: list[AttackStep] = []
        for iteration in range(config.iterations + 1):
            started = time.perf_counter()
            loss, gradient, hit_rate, mean_rank = surrogate.reply(fakes)
            if not np.isfinite(loss) or not np.isfinite(gradient).all():
                raise UsageError(
                    f"The surrogate {surrogate.name} must give finite numbers; its loss is {loss} "
                    f"in iteration {iteration}, with a gradient up to {np.abs(gradient).max()}. "
                    "Lower its lr, or track fewer steps."
                )
            after = update.step(fakes, gradient)
            seconds = time.perf_counter() - started
            counts = int(fakes.sum()), num_changed
            step = AttackStep(iteration, loss, hit_rate, mean_rank, *counts, seconds)
            steps.append(step)
            if watch is not None:
                watch(step)
            if self._merit(step) > self._merit(steps[best]):
                best_fakes, best = fakes, iteration
            num_changed = int((after != fakes).sum())
            fakes = after
        return AttackResult(Clicks.from_dense(best_fakes), steps, best)

    def _merit(self, step: AttackStep) -> tuple[float, float]:
        is_by_hits = self._config.select == "hit_rate"
        return (step.hit_rate if is_by_hits else 0.0, -step.loss)


def copied_users(
    real: Clicks, num_fakes: int, config: OuterConfig, *, seed: int
) -> NDArray[np.bool_]:
    """Return the rows [F, I] of real users with few clicks, each again once all were taken.

    Raises:
        UsageError: no user has so few.
    """
    most = config.max_start_clicks
    fit = np.flatnonzero((real.lengths > 0) & (real.lengths <= most))
    if not len(fit):
        raise UsageError(
            f"A learned attack starts from copies of users with 1 to {most} clicks; the dataset "
            "has none. Raise max_start_clicks."
        )
    if config.start == "random":
        fit = np.random.default_rng(seed).permutation(fit)
    return real.dense(np.resize(fit, num_fakes))


def _check(real: Clicks, targets: NDArray[np.int64], num_fakes: int) -> None:
    if num_fakes < 1:
        raise UsageError(f"An attack needs at least 1 fake user; got {num_fakes}.")
    is_column = (targets >= 0) & (targets < real.num_items)
    if not len(targets) or not is_column.all() or len(np.unique(targets)) < len(targets):
        raise UsageError(
            f"Targets must be distinct columns from 0 to {real.num_items - 1}, at least one; "
            f"got {targets.tolist()}."
        )
