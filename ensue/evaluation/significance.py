"""Is one model better than another? Paired tests over the users both were evaluated on.

For each pair of models and each metric, the per-user differences a - b are tested against "the two
are interchangeable", under which each difference could as well have the other sign: p is the share
of random sign flips whose mean is as far from 0 as the observed one (two-sided), with 1 added to
both counts so that it is never 0; with few users all sign patterns are enumerated and p is exact.
The p-values of all pairs and metrics are then corrected together.

Sources: Smucker, Allan and Carterette, CIKM 2007 (the test in retrieval); Phipson and Smyth, 2010
(adding 1); Holm, 1979; Benjamini and Hochberg, 1995.

Shapes: U users, M metrics, N sign patterns, H tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.errors import UsageError, did_you_mean
from ensue.evaluation.intervals import Bootstrap
from ensue.evaluation.result import Evaluation

Floats = NDArray[np.float64]

SIGNS_AT_ONCE = 1 << 22  # bounds the memory, at about 10 bytes a sign; at least one pattern

# A pattern with the same mean in exact arithmetic must count in spite of rounding.
ROUNDING = 1e-12

# Besides the data, these must agree for two evaluations to have ranked the same targets.
SAME = ("split", "history", "candidates", "num_candidates", "exclude_seen", "ties")


@dataclass(frozen=True)
class Comparison:
    """Every pair of models on every metric.

    tests: one for each pair and metric: a, b (names), metric, mean_a, mean_b, difference (a - b),
        interval (of the difference), p, p_corrected.
    protocol: how the tests were made, and what the evaluations share.
    """

    names: list[str]
    tests: list[dict[str, Any]]
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison, ready for JSON."""
        return {"names": self.names, "tests": self.tests, "protocol": self.protocol}


def compare(
    evaluations: Sequence[Evaluation],
    names: Sequence[str],
    *,
    metrics: Sequence[str] = ("map", "ndcg@10", "recall@10"),
    num_permutations: int = 10_000,
    seed: int = 0,
    correction: str = "holm",
    against: str | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> Comparison:
    """Return the paired tests of every two evaluations, or of each one against one of them.

    Args:
        names: what the models are called, in the order of `evaluations`.
        correction: "holm" or "bonferroni" (family-wise error), or "bh" (false discovery rate).
        against: the name of the one that all others are compared with; None is every pair.
        num_resamples: bootstrap resamples for the intervals of the differences.

    Raises:
        UsageError: the evaluations are not of the same users and protocol, or lack a metric.
    """
    if against is not None and against not in names:
        raise UsageError(f"there is no evaluation {against!r}.{did_you_mean(against, names)}")
    _check(evaluations, names, metrics, num_permutations, correction)
    rng = np.random.default_rng(seed)
    bootstrap = Bootstrap(num_resamples, confidence, rng)
    tables = [evaluation.users.select(metrics).to_numpy() for evaluation in evaluations]
    pairs = list(combinations(range(len(tables)), 2))
    if against is not None:
        base = list(names).index(against)
        pairs = [(number, base) for number in range(len(tables)) if number != base]
    tests = [
        {"a": names[a], "b": names[b], **test}
        for a, b in pairs
        for test in _test_pair(tables[a], tables[b], metrics, num_permutations, bootstrap)
    ]
    corrected = CORRECTIONS[correction](np.array([test["p"] for test in tests]))
    for test, p in zip(tests, corrected.tolist(), strict=True):
        test["p_corrected"] = p
    protocol = {
        "test": "paired sign-flip permutation test over users, two-sided",
        "num_permutations": num_permutations,
        "correction": correction,
        "num_tests": len(tests),
        "interval": bootstrap.describe(),
        "seed": seed,
        "num_users": len(tables[0]),
    }
    return Comparison(list(names), tests, protocol | _shared(evaluations[0]))


def _test_pair(
    a: Floats,
    b: Floats,
    metrics: Sequence[str],
    num_permutations: int,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """Return one test for each metric, given the values [U, M] of two models."""
    difference = a - b
    p_values = sign_flip_p_values(difference, num_permutations, bootstrap.rng)
    intervals = bootstrap.intervals(dict(zip(metrics, difference.T, strict=True)))
    return [
        {
            "metric": metric,
            "mean_a": float(a[:, m].mean()),
            "mean_b": float(b[:, m].mean()),
            "difference": float(difference[:, m].mean()),
            "interval": intervals.get(metric),
            "p": float(p_values[m]),
        }
        for m, metric in enumerate(metrics)
    ]


def sign_flip_p_values(
    differences: Floats, num_permutations: int, rng: np.random.Generator
) -> Floats:
    """Return the two-sided p-value [M] of the mean of each column of `differences` [U, M].

    Exact, over all 2^U sign patterns, where they are no more than `num_permutations`.

    >>> sign_flip_p_values(np.array([[1.0], [2.0], [4.0]]), 8, np.random.default_rng(0)).tolist()
    [0.25]
    """
    num_users, num_metrics = differences.shape
    total = differences.sum(axis=0)
    bound = np.abs(total) - ROUNDING * np.abs(differences).sum(axis=0)
    is_exact = num_users < 63 and 2**num_users <= num_permutations
    num_patterns = 2**num_users if is_exact else num_permutations
    at_once = max(1, SIGNS_AT_ONCE // num_users)
    as_far = np.zeros(num_metrics, dtype=np.int64)
    for first in range(0, num_patterns, at_once):
        last = min(first + at_once, num_patterns)
        if is_exact:
            flips = _all_bits(first, last, num_users)
        else:
            flips = _random_bits(last - first, num_users, rng)
        # The sum with the signs of some users flipped is the sum less twice those users' share.
        sums = total - 2 * (flips @ differences)
        as_far += (np.abs(sums) >= bound).sum(axis=0)
    if is_exact:
        return as_far / num_patterns
    return (as_far + 1) / (num_patterns + 1)


def _all_bits(first: int, last: int, num_columns: int) -> Floats:
    """Return the binary digits of first, ..., last - 1 [last - first, num_columns]."""
    return (np.arange(first, last)[:, None] >> np.arange(num_columns) & 1).astype(np.float64)


def _random_bits(num_rows: int, num_columns: int, rng: np.random.Generator) -> Floats:
    """Return fair coin flips [num_rows, num_columns]."""
    width = -(-num_columns // 8)
    packed = np.frombuffer(rng.bytes(num_rows * width), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(num_rows, width), axis=1, count=num_columns)
    return bits.astype(np.float64)


def bonferroni(p_values: Floats) -> Floats:
    """Return each p-value times their number H, at most 1.

    >>> bonferroni(np.array([0.01, 0.5])).tolist()
    [0.02, 1.0]
    """
    return np.minimum(p_values * len(p_values), 1.0)


def holm(p_values: Floats) -> Floats:
    """Return Holm's step-down p-values [H]: the i-th smallest times H - i + 1, never falling.

    >>> holm(np.array([0.03, 0.01, 0.02])).tolist()
    [0.04, 0.03, 0.04]
    """
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Floats) -> Floats:
    """Return step-up p-values [H]: the i-th smallest times H / i, never rising towards smaller i.

    >>> benjamini_hochberg(np.array([0.03, 0.01, 0.04, 0.5])).round(4).tolist()
    [0.0533, 0.04, 0.0533, 0.5]
    """
    order = np.argsort(p_values, kind="stable")[::-1]
    stepped = p_values[order] * len(p_values) / np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.minimum.accumulate(stepped), 1.0)
    return adjusted


CORRECTIONS: dict[str, Callable[[Floats], Floats]] = {
    "holm": holm,
    "bonferroni": bonferroni,
    "bh": benjamini_hochberg,
}


def _check(
    evaluations: Sequence[Evaluation],
    names: Sequence[str],
    metrics: Sequence[str],
    num_permutations: int,
    correction: str,
) -> None:
    """Raise UsageError unless the evaluations can be compared as asked."""
    if len(evaluations) < 2 or len(names) != len(evaluations):
        raise UsageError(
            "compare needs two or more evaluations and a name for each; "
            f"got {len(evaluations)} evaluations and {len(names)} names."
        )
    if correction not in CORRECTIONS:
        raise UsageError(f"{correction!r} is no correction.{did_you_mean(correction, CORRECTIONS)}")
    if num_permutations < 1:
        raise UsageError(f"num_permutations must be 1 or more; got {num_permutations}.")
    if not metrics:
        raise UsageError("compare needs at least one metric; got none.")
    for evaluation, name in zip(evaluations, names, strict=True):
        for metric in metrics:
            if metric not in evaluation.metrics:
                raise UsageError(
                    f"the evaluation of {name} has no metric {metric!r}."
                    f"{did_you_mean(metric, evaluation.metrics)}"
                )
        _check_same(evaluations[0], names[0], evaluation, name)


def _check_same(first: Evaluation, first_name: str, other: Evaluation, other_name: str) -> None:
    """Raise UsageError unless the two evaluations ranked the same targets in the same way."""
    expected, found = _shared(first), _shared(other)
    for key, value in expected.items():
        if found[key] != value:
            raise UsageError(
                f"compared evaluations must have the same {key}; {first_name} has {value!r}, "
                f"{other_name} has {found[key]!r}. Evaluate both in the same way."
            )
    if not first.users["user"].equals(other.users["user"]):
        raise UsageError(
            f"compared evaluations must be of the same users; {first_name} has "
            f"{len(first.users)}, {other_name} has {len(other.users)}, and they are not the same. "
            "Evaluate both on all users, or on a sample with the same size and seed."
        )


def _shared(evaluation: Evaluation) -> dict[str, Any]:
    """Return what must agree for two evaluations to have ranked the same targets."""
    protocol = evaluation.protocol
    return {"dataset hash": protocol["dataset"]["hash"]} | {key: protocol[key] for key in SAME}
