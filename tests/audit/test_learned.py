from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from ensue.audit.base import Attack, AttackStep
from ensue.audit.clicks import Clicks
from ensue.audit.learned import LearnedAttack, OuterConfig, Reply, copied_users
from ensue.audit.wrmf_sgd import WrmfSgd, WrmfSgdConfig
from ensue.errors import UsageError

REAL = Clicks.from_rows([np.arange(4), np.arange(2, 8), np.array([9]), np.arange(0)], 10)
TARGETS = np.array([5])


class Told:
    """Answers what it was told to, and keeps what it was asked."""

    name = "told"

    def __init__(self, rates: list[float], losses: list[float]) -> None:
        self.rates, self.losses, self.asked = rates, losses, []

    def reply(self, fakes: np.ndarray) -> Reply:
        place = len(self.asked)
        self.asked.append(fakes.copy())
        gradient = np.zeros(fakes.shape, np.float32)
        gradient[:, place] = 1 if fakes[0, place] else -1  # turns one column over
        return Reply(self.losses[place], gradient, self.rates[place], 3.0)

    def __call__(self, real: Clicks, targets: np.ndarray, *, seed: int, num_fakes: int) -> Any:
        return self


@pytest.mark.parametrize(("select", "best"), [("hit_rate", 3), ("loss", 1)])
def test_the_best_is_kept_and_the_last_is_tried(select: Any, best: int) -> None:
    told = Told([0.1, 0.2, 0.4, 0.4], [9.0, 3.0, 5.0, 4.0])
    config = OuterConfig(iterations=3, select=select, momentum=0, start="first")
    attack: Attack = LearnedAttack("told", told, config)
    seen: list[AttackStep] = []
    result = attack.run(REAL, TARGETS, 2, seed=0, watch=seen.append)
    assert result.best == best
    assert result.steps == seen
    assert [step.iteration for step in seen] == [0, 1, 2, 3]
    assert np.array_equal(result.fakes.dense(np.arange(2)), told.asked[best])
    changed = [(a != b).sum() for a, b in zip(told.asked[1:], told.asked, strict=False)]
    assert [step.num_changed for step in seen] == [0, *changed]
    assert [step.num_clicks for step in seen] == [fakes.sum() for fakes in told.asked]


def test_targets_are_clicked_from_the_start() -> None:
    told = Told([0.1, 0.2], [1.0, 1.0])
    LearnedAttack("told", told, OuterConfig(iterations=1, click_targets=True)).run(
        REAL, TARGETS, 2, seed=0
    )
    assert all(fakes[:, 5].all() for fakes in told.asked)


def test_users_with_few_clicks_are_copied() -> None:
    config = OuterConfig(max_start_clicks=4, start="first")
    fakes = copied_users(REAL, 3, config, seed=0)
    assert np.array_equal(fakes, REAL.dense(np.array([0, 2, 0])))
    by_chance = OuterConfig(max_start_clicks=4)
    rows = [copied_users(REAL, 1, by_chance, seed=seed)[0] for seed in range(20)]
    assert {row.sum() for row in rows} == {1, 4}
    assert np.array_equal(rows[3], copied_users(REAL, 1, by_chance, seed=3)[0])


@pytest.mark.parametrize(
    ("targets", "num_fakes", "match"),
    [
        ([10], 1, "columns from 0 to 9.*10"),
        ([5, 5], 1, r"distinct.*\[5, 5\]"),
        ([], 1, "at least one"),
        ([5], 0, "at least 1 fake user; got 0"),
    ],
)
def test_requests_without_a_meaning(targets: list[int], num_fakes: int, match: str) -> None:
    attack = LearnedAttack("told", Told([0.1], [1.0]), OuterConfig(iterations=0))
    with pytest.raises(UsageError, match=match):
        attack.run(REAL, np.array(targets, np.int64), num_fakes, seed=0)


def test_nobody_to_copy() -> None:
    busy = Clicks.from_rows([np.arange(4)], 10)
    with pytest.raises(UsageError, match="users with 1 to 3 clicks"):
        copied_users(busy, 1, OuterConfig(max_start_clicks=3), seed=0)


def test_a_surrogate_that_diverges_is_told() -> None:
    told = Told([0.1, 0.1], [1.0, float("nan")])
    with pytest.raises(
        UsageError, match=r"told must give finite numbers.*nan in iteration 1.*1\.0"
    ):
        LearnedAttack("told", told, OuterConfig(iterations=1)).run(REAL, TARGETS, 1, seed=0)


def test_an_attack_promotes_its_target() -> None:
    rng = np.random.default_rng(0)
    tastes = rng.normal(size=(80, 4)) @ rng.normal(size=(4, 30))
    real = Clicks.from_dense(tastes > 2)
    config = WrmfSgdConfig(dim=4, epochs=10, batch_users=100, lr=0.2, init_std=0.5, k=3)
    attack = LearnedAttack("wrmf-sgd", partial(WrmfSgd, config=config), OuterConfig(iterations=8))
    targets = np.array([int(real.counts().argmin())])
    result = attack.run(real, targets, 8, seed=1)
    again = attack.run(real, targets, 8, seed=1)
    assert result.best is not None
    assert result.steps[result.best].hit_rate > result.steps[0].hit_rate + 0.2
    assert result.steps[result.best].loss < result.steps[0].loss
    assert np.array_equal(result.fakes.columns, again.fakes.columns)
