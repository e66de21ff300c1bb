"""How much of what distillation gains is smoothing, knowledge of examples, relations of classes.

Each is a difference of test accuracies between methods that differ in one of them; what they do
not explain is what only comes of them together. The parts are of our own making; the three levels
are those of J. Tang et al., "Understanding and Improving Knowledge Distillation", 2020,
arXiv:2002.03532.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

# What shows relations of classes alone: the first of these that was run. kd-classavg comes first
# because it has no setting of its own and reads what kd reads.
DOMAIN_METHODS = ("kd-classavg", "kd-sim", "kd-rel")


@dataclass(frozen=True)
class Effect:
    """A difference of accuracies: mean over seeds, and its standard error where there are several.

    share: of the whole gain; None where the gain itself is not clear.
    """

    name: str
    definition: str
    value: float
    standard_error: float | None
    share: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the value is more than two standard errors away from 0."""
        return self.standard_error is not None and abs(self.value) > 2 * self.standard_error


@dataclass(frozen=True)
class Attribution:
    """The gain of kd over hard labels, its parts, and what can be said of them."""

    gain: Effect
    parts: tuple[Effect, ...]
    sentence: str


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for one value.

    >>> standard_error([1.0, 2.0, 3.0, 4.0])
    0.6454972243679028
    """
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def attribute(accuracies: Mapping[str, Sequence[float]]) -> Attribution | None:
    """Return the parts of the gain of kd; None unless hard, ls, kd-pt, kd and one more were run.

    smoothing = ls - hard; instance = kd-pt - ls; domain = one of DOMAIN_METHODS - ls;
    interaction = (kd - hard) - the three. Differences are taken seed by seed.

    Args:
        accuracies: by method, one for each seed, in the same order of seeds.
    """
    domain = next((name for name in DOMAIN_METHODS if name in accuracies), None)
    if domain is None or not {"hard", "ls", "kd-pt", "kd"} <= set(accuracies):
        return None
    columns = zip(*accuracies.values(), strict=True)
    runs = [dict(zip(accuracies, values, strict=True)) for values in columns]
    gains = [run["kd"] - run["hard"] for run in runs]
    parts = {
        "smoothing": ("ls - hard", [run["ls"] - run["hard"] for run in runs]),
        "instance": ("kd-pt - ls", [run["kd-pt"] - run["ls"] for run in runs]),
        "domain": (f"{domain} - ls", [run[domain] - run["ls"] for run in runs]),
    }
    rest = [gain - sum(v[i] for _, v in parts.values()) for i, gain in enumerate(gains)]
    parts["interaction"] = ("the rest", rest)
    gain = Effect("gain", "kd - hard", mean(gains), standard_error(gains), None)
    is_shared = gain.is_clear and gain.value > 0
    effects = tuple(
        Effect(
            name,
            definition,
            mean(values),
            standard_error(values),
            mean(values) / gain.value if is_shared else None,
        )
        for name, (definition, values) in parts.items()
    )
    return Attribution(gain, effects, _describe(gain, effects))


def _describe(gain: Effect, parts: Sequence[Effect]) -> str:
    if gain.standard_error is None:
        return (
            f"kd gains {gain.value:+.4f} over hard labels with one seed: without a second one "
            "nothing can be attributed."
        )
    error = f"standard error {gain.standard_error:.4f}"
    if not gain.is_clear:
        return (
            f"kd gains {gain.value:+.4f} over hard labels ({error}), no more than two standard "
            "errors: nothing can be attributed."
        )
    if gain.value < 0:
        return (
            f"kd loses {-gain.value:.4f} against hard labels ({error}): there is no gain to share."
        )
    shown = [
        f"{part.name} ({part.definition}) {part.value:+.4f} or {part.share:.0%}" for part in parts
    ]
    unclear = [part.name for part in parts if not part.is_clear]
    sentence = (
        f"Of the {gain.value:.4f} that kd gains over hard labels ({error}): {', '.join(shown)}."
    )
    if unclear:
        sentence += f" Within two standard errors of nothing: {', '.join(unclear)}."
    return sentence
