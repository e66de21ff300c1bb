"""What an audit found: attacks and measured models, and what they come to over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.intervals import Bootstrap

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_COST = 0.02


@dataclass(frozen=True)
class Found:
    """Fake users that an attack made.

    num_clicks: of all of them. steps: of the attack (`AttackStep`), best: the iteration that was
    kept. detectors: name -> AUROC. quantiles: of "clicks" and "popularity", of real and fake users,
    at 10, 50 and 90 percent.
    """

    attack: str
    targets: str
    budget: str
    num_fakes: int
    seed: int
    num_clicks: int
    best: int | None
    steps: list[dict[str, Any]]
    detectors: dict[str, float]
    quantiles: dict[str, dict[str, list[float]]]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A model that was trained, on clean data (no attack) or poisoned ones, and measured.

    hit_rate to by_target: as `TargetMetrics`. accuracy: of `ensue evaluate` on the test part.
    left_out: of a defence, shares of the fake and of the real users' training clicks left out.
    """

    victim: str
    attack: str | None
    targets: str
    budget: str | None
    seed: int
    defence: str | None
    hit_rate: float
    mean_rank: float | None
    truncated_rank: float
    by_target: list[dict[str, Any]]
    accuracy: dict[str, float]
    left_out: dict[str, float] | None
    seconds: float


@dataclass(frozen=True)
class Effect:
    """An attack on a model, before and after, means over seeds.

    before, after: the hit rate of the targets; lift: the difference, with an interval over users
    (their means over seeds are resampled) and the smallest and largest of a seed.
    rank_before, rank_after: mean rank. accuracy: name -> [before, after].
    Of a defence, `before` and `rank_before` are with it too: it moves targets without an attack.
    accuracy is against the model without it, and so is unattacked, that of the defence alone.
    kept_lift: its lift over that without it; None where the interval of that is not above 0.
    """

    victim: str
    attack: str
    targets: str
    budget: str
    num_fakes: int
    defence: str | None
    num_seeds: int
    before: float
    after: float
    lift: float
    interval: tuple[float, float]
    of_seeds: tuple[float, float]
    rank_before: float | None
    rank_after: float | None
    accuracy: dict[str, tuple[float, float]]
    unattacked: dict[str, tuple[float, float]] | None = None
    left_out: dict[str, float] | None = None
    kept_lift: float | None = None

    @property
    def attack_on(self) -> tuple[str, str, str, str]:
        """The model, the attack, the targets and the budget."""
        return self.victim, self.attack, self.targets, self.budget

    @property
    def is_real(self) -> bool:
        """Whether the interval of the lift lies above 0."""
        return self.interval[0] > 0

    def change(self, metric: str) -> float | None:
        """Return the relative change of a metric of accuracy; None where it was 0."""
        return _change(self.accuracy[metric])

    def cost(self, metric: str) -> float | None:
        """Return the relative change that a defence makes without an attack; None likewise."""
        return None if self.unattacked is None else _change(self.unattacked[metric])


@dataclass(frozen=True)
class Protection:
    """What a defence comes to over all models and attacks.

    kept: its lifts over those without it, summed where the interval of that lies above 0; None
    where it does nowhere. change, cost: mean relative change of accuracy, with and without an
    attack.
    """

    defence: str
    kept: float | None
    change: float
    cost: float
    left_out: dict[str, float]

    @property
    def is_good(self) -> bool:
        """Whether it halves the lift, at 2% of accuracy or less with and without an attack."""
        is_cheap = min(self.change, self.cost) >= -MAX_COST
        return self.kept is not None and self.kept <= 0.5 and is_cheap


@dataclass(frozen=True)
class Audit:
    """An audit.

    facts: what was asked. targets: name -> for each seed the items, with raw id and clicks.
    """

    path: Path
    facts: dict[str, Any]
    targets: dict[str, list[list[dict[str, Any]]]]
    found: list[Found]
    outcomes: list[Outcome]
    effects: list[Effect]

    @property
    def attacked(self) -> list[Effect]:
        """The effects without a defence."""
        return [effect for effect in self.effects if effect.defence is None]

    @property
    def worst(self) -> Effect:
        """The effect with the largest hit rate after the attack, without a defence."""
        return max(self.attacked, key=lambda effect: effect.after)

    @property
    def strongest(self) -> Effect:
        """The effect with the largest lift, without a defence."""
        return max(self.attacked, key=lambda effect: effect.lift)

    def protections(self) -> list[Protection]:
        """Return what each defence does, and costs of recall@k."""
        metric = f"recall@{self.facts['k']}"
        plain = {effect.attack_on: effect for effect in self.attacked}
        found = []
        for defence in self.facts["defences"]:
            own = [effect for effect in self.effects if effect.defence == defence]
            real = [effect for effect in own if plain[effect.attack_on].is_real]
            whole = sum(plain[effect.attack_on].lift for effect in real)
            found.append(
                Protection(
                    defence,
                    kept=sum(effect.lift for effect in real) / whole if real else None,
                    change=statistics.fmean(effect.change(metric) or 0.0 for effect in own),
                    cost=statistics.fmean(effect.cost(metric) or 0.0 for effect in own),
                    left_out=_mean_of([effect.left_out for effect in own if effect.left_out]) or {},
                )
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "facts": self.facts,
            "targets": self.targets,
            "defences": [{**asdict(one), "is_good": one.is_good} for one in self.protections()],
            "effects": [asdict(effect) for effect in self.effects],
            "attacks": [asdict(one) for one in self.found],
            "outcomes": [asdict(one) for one in self.outcomes],
        }


def describe_strongest(found: Audit) -> str:
    """Return what the attack with the largest lift does, in one sentence."""
    effect, k = found.strongest, found.facts["k"]
    return (
        f"With {effect.num_fakes:,} fake users ({effect.budget}), {effect.attack} takes targets "
        f"({effect.targets}) in {effect.victim} from {effect.before:.1%} to {effect.after:.1%} of "
        f"the users who see one in their first {k}."
    )


Hits = Mapping[tuple[str, str | None, str, str | None, int, str | None], NDArray[np.bool_]]


def key_of(outcome: Outcome) -> tuple[str, str | None, str, str | None, int, str | None]:
    """Return what an outcome is of."""
    return (
        outcome.victim,
        outcome.attack,
        outcome.targets,
        outcome.budget,
        outcome.seed,
        outcome.defence,
    )


def summarize(
    outcomes: Sequence[Outcome], hits: Hits, budgets: Mapping[str, int], seeds: Sequence[int]
) -> list[Effect]:
    """Return what the outcomes come to, in their order; those not there for all seeds are left out.

    Args:
        hits: by `key_of`, whether each real user has a target among the first k [U].
        budgets: name -> fake users.
    """
    known = {key_of(outcome): outcome for outcome in outcomes}
    effects: dict[tuple[Any, ...], Effect] = {}
    for outcome in outcomes:
        if outcome.attack is None or outcome.seed != seeds[0]:
            continue
        victim, attack, targets, budget, _, defence = key_of(outcome)
        assert budget is not None
        plain = [(victim, None, targets, None, seed, None) for seed in seeds]
        clean = [(victim, None, targets, None, seed, defence) for seed in seeds]
        keys = [(victim, attack, targets, budget, seed, defence) for seed in seeds]
        if not all(key in known for key in (*plain, *clean, *keys)):
            continue
        effect = _effect(
            [known[key] for key in plain],
            [known[key] for key in clean],
            [known[key] for key in keys],
            np.mean([hits[b].astype(float) - hits[a] for a, b in zip(clean, keys, strict=True)], 0),
            budgets[budget],
            effects.get((victim, attack, targets, budget, None)) if defence else None,
        )
        effects[(victim, attack, targets, budget, defence)] = effect
    return list(effects.values())


def _effect(
    plain: list[Outcome],
    before: list[Outcome],
    after: list[Outcome],
    changes: NDArray[np.float64],
    num_fakes: int,
    undefended: Effect | None,
) -> Effect:
    """Return the effect of outcomes of the same seeds.

    Args:
        plain: without an attack or a defence; before: with the defence of `after`.
        changes: [U] of the hit of each user, means over seeds.
        undefended: the effect of the same attack without the defence.
    """
    first = after[0]
    bootstrap = Bootstrap(NUM_RESAMPLES, CONFIDENCE, np.random.default_rng(0))
    low, high = bootstrap.intervals({"lift": changes})["lift"]
    lifts = [b.hit_rate - a.hit_rate for a, b in zip(before, after, strict=True)]
    lift = statistics.fmean(lifts)
    return Effect(
        victim=first.victim,
        attack=str(first.attack),
        targets=first.targets,
        budget=str(first.budget),
        num_fakes=num_fakes,
        defence=first.defence,
        num_seeds=len(after),
        before=statistics.fmean(one.hit_rate for one in before),
        after=statistics.fmean(one.hit_rate for one in after),
        lift=lift,
        interval=(low, high),
        of_seeds=(min(lifts), max(lifts)),
        rank_before=_mean([one.mean_rank for one in before]),
        rank_after=_mean([one.mean_rank for one in after]),
        accuracy=_accuracies(plain, after),
        unattacked=_accuracies(plain, before) if first.defence else None,
        left_out=_mean_of([one.left_out for one in after if one.left_out]),
        kept_lift=lift / undefended.lift if undefended and undefended.is_real else None,
    )


def _accuracies(
    before: Sequence[Outcome], after: Sequence[Outcome]
) -> dict[str, tuple[float, float]]:
    """Return name -> (before, after), means over seeds."""
    return {
        name: (
            statistics.fmean(one.accuracy[name] for one in before),
            statistics.fmean(one.accuracy[name] for one in after),
        )
        for name in before[0].accuracy
    }


def _change(values: tuple[float, float]) -> float | None:
    before, after = values
    return after / before - 1 if before else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _mean_of(shares: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """Return the mean of each share; None for none."""
    if not shares:
        return None
    return {name: statistics.fmean(one[name] for one in shares) for name in shares[0]}
