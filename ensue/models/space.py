"""What a search over settings may try, and what an ablation leaves out or varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, both included; whole numbers for a setting that takes those.

    log: tried evenly on a logarithmic scale, as scales and counts over decades are. None is as the
        model declares it for the setting, else True where high is at least 100 times low.
    """

    low: float
    high: float
    log: bool | None = None


@dataclass(frozen=True)
class Choice:
    """One of these values, in no order."""

    values: tuple[Any, ...]


Space = dict[str, Range | Choice]


@dataclass(frozen=True)
class Changes:
    """What `ensue ablate` changes in a model, one change for each variant.

    without: settings to switch off, as "dynamic"; values to leave out of a list, as "graphs.tags"
        or, each in turn, "graphs.*"; several at once, as "graphs+interactions".
    vary: setting -> values.
    """

    without: Sequence[str] = ()
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
