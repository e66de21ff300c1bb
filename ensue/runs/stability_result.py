"""What a sweep found: the trainings, and what they come to by rule and rate."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensue.runs.stability_problem import Quality

DIVERGED_AUC = 0.505  # of a task, at most
DIVERGED_LEAP = 2.0  # of a loss over the first one, before


@dataclass(frozen=True)
class Outcome:
    """What came out of one training.

    reason: why it diverged, "loss" or "auc"; None where it did not. quality: at the end.
    leap: the largest loss of a task over its first; None for one that is not finite.
    spikes: as `ensue.training.spikes` tells them. clipping: mean factor of each tensor.
    """

    rule: str
    rate: float
    seed: int
    reason: str | None
    leap: float | None
    quality: Quality
    spikes: list[dict[str, Any]]
    clipping: dict[str, float]
    seconds: float

    @property
    def has_diverged(self) -> bool:
        """Whether it diverged for good."""
        return self.reason is not None

    @property
    def is_micro(self) -> bool:
        """Whether a loss leapt and came back, and all was well in the end."""
        came_back = any(spike["steps"] is not None for spike in self.spikes)
        return came_back and not self.has_diverged


@dataclass(frozen=True)
class Point:
    """The trainings of a rule at one rate.

    diverged, micro: shares of them. auc, rmse: mean over tasks and over those that did not diverge,
    None for none; the deviations are over seeds, None for fewer than two.
    """

    rate: float
    num_runs: int
    diverged: float
    micro: float
    auc: float | None
    auc_deviation: float | None
    rmse: float | None
    rmse_deviation: float | None


@dataclass(frozen=True)
class RuleResult:
    """A rule over the rates.

    largest_rate: up to which no training diverged; None where the smallest rate had one.
    largest_calm_rate: up to which there was no micro-divergence either.
    origins: how often a leap began in each tensor, the most frequent first.
    """

    rule: str
    points: list[Point]
    largest_rate: float | None
    largest_calm_rate: float | None
    origins: dict[str, int]

    @property
    def best(self) -> Point | None:
        """The rate of the best AUC; None where all diverged."""
        known = [point for point in self.points if point.auc is not None]
        return max(known, key=lambda point: point.auc or 0.0, default=None)


@dataclass(frozen=True)
class Stability:
    """A sweep: what was trained (`facts`), and what each rule came to."""

    path: Path
    facts: dict[str, Any]
    rules: list[RuleResult]
    outcomes: list[Outcome]

    def to_dict(self) -> dict[str, Any]:
        """Return facts and rules, ready for JSON."""
        rules = [asdict(rule) for rule in self.rules]
        return {**self.facts, "rules": rules, "num_runs": len(self.outcomes)}


def divergence(quality: Quality, leap: float) -> str | None:
    """Return "auc" where the quality at the end is that of a divergence.

    A network that has hardly moved has an AUC of one half too: some loss must have leapt before.

    >>> divergence({"auc": {"click": 0.7, "like": 0.5}, "rmse": {}}, leap=50.0)
    'auc'
    """
    is_lost = any(value is None or value <= DIVERGED_AUC for value in quality["auc"].values())
    return "auc" if is_lost and leap > DIVERGED_LEAP else None


def summarize(outcomes: Sequence[Outcome], rules: Sequence[str]) -> list[RuleResult]:
    """Return what the trainings come to, rule by rule; rules without any are left out."""
    found = []
    for rule in rules:
        own = [outcome for outcome in outcomes if outcome.rule == rule]
        rates = sorted({outcome.rate for outcome in own})
        points = [_point(rate, [o for o in own if o.rate == rate]) for rate in rates]
        spikes = [spike for outcome in own for spike in outcome.spikes]
        origins = Counter(spike["tensor"] for spike in spikes if spike["tensor"])
        result = RuleResult(
            rule,
            points,
            largest_rate=_last_before(points, [p.diverged > 0 for p in points]),
            largest_calm_rate=_last_before(points, [p.diverged + p.micro > 0 for p in points]),
            origins=dict(origins.most_common()),
        )
        if points:
            found.append(result)
    return found


def _last_before(points: Sequence[Point], is_bad: Sequence[bool]) -> float | None:
    """Return the rate of the last point before the first bad one."""
    number = is_bad.index(True) if True in is_bad else len(points)
    return points[number - 1].rate if number else None


def _point(rate: float, outcomes: Sequence[Outcome]) -> Point:
    sound = [outcome.quality for outcome in outcomes if not outcome.has_diverged]
    auc, rmse = (_mean_of(sound, metric) for metric in ("auc", "rmse"))
    return Point(
        rate,
        len(outcomes),
        diverged=sum(o.has_diverged for o in outcomes) / len(outcomes),
        micro=sum(o.is_micro for o in outcomes) / len(outcomes),
        auc=auc[0],
        auc_deviation=auc[1],
        rmse=rmse[0],
        rmse_deviation=rmse[1],
    )


def _mean_of(qualities: Sequence[Quality], metric: str) -> tuple[float | None, float | None]:
    """Return the mean over tasks and trainings, and the deviation over trainings."""
    known = [[v for v in quality[metric].values() if v is not None] for quality in qualities]
    means = [statistics.fmean(values) for values in known if values]
    deviation = statistics.stdev(means) if len(means) > 1 else None
    return (statistics.fmean(means) if means else None), deviation
