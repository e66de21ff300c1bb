"""What a search over settings may try: a range of numbers, or a list of values."""

from __future__ import annotations

from dataclasses import dataclass
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
