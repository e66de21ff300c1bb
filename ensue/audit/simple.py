"""Attacks that need no model: fake users who click targets and popular or random items.

Random, popular ("average") and bandwagon profiles as in Mobasher, Burke, Bhaumik and Williams,
"Toward trustworthy recommender systems", ACM TOIT 2007, on clicks in place of ratings. A fake user
clicks as often as a real one, drawn at random, so that a budget of users is a budget of clicks too.
Departure: random and popular users do not click the targets on purpose. They show what fake users
do by being there.
Shapes: F fake users, I items, S targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ensue.audit.base import AttackResult, AttackStep
from ensue.audit.clicks import Clicks
from ensue.config import Config
from ensue.errors import UsageError, did_you_mean

_BLOCK_CELLS = 1 << 22  # fake users times items looked at together
_NEVER_CLICKED = -1e4  # in place of log 0: behind all others, in any order


class _Profile(NamedTuple):
    """clicks_targets: all of them, before anything else.

    head_share: share of the other clicks that goes to the most popular items.
    is_popular: the rest is drawn in proportion to real clicks; else all items are as likely.
    """

    clicks_targets: bool
    head_share: float
    is_popular: bool


PROFILES: dict[str, _Profile] = {
    "random": _Profile(clicks_targets=False, head_share=0.0, is_popular=False),
    "popular": _Profile(clicks_targets=False, head_share=0.0, is_popular=True),
    "bandwagon": _Profile(clicks_targets=True, head_share=0.5, is_popular=False),
    "target-popular": _Profile(clicks_targets=True, head_share=0.0, is_popular=True),
}


class OneShotConfig(Config):
    """clicks: of each fake user; None draws those of a real user with at least S clicks."""

    clicks: int | None = Field(default=None, ge=1)


class OneShotAttack:
    """Draws fake users by one of the PROFILES.

    With the same seed all of them have the same numbers of clicks.
    """

    def __init__(self, name: str, config: OneShotConfig | None = None) -> None:
        if name not in PROFILES:
            raise UsageError(f"there is no one-shot attack {name!r}.{did_you_mean(name, PROFILES)}")
        self.name = name
        self.config = config or OneShotConfig()

    def run(
        self,
        real: Clicks,
        targets: NDArray[np.int64],
        num_fakes: int,
        *,
        seed: int,
        watch: Callable[[AttackStep], None] | None = None,
    ) -> AttackResult:
        """See `Attack.run`; there is no iteration to watch.

        Raises:
            UsageError: a fake user cannot have that many clicks, or no real user has enough.
        """
        generator = np.random.default_rng(seed)
        lengths = self._draw_lengths(real, len(targets), num_fakes, generator)
        profile = PROFILES[self.name]
        counts = real.counts()
        place = _places(counts, targets)
        num_sure = np.zeros(num_fakes, dtype=np.int64)
        if profile.clicks_targets:
            others = lengths - len(targets)
            num_sure = len(targets) + (profile.head_share * others).astype(np.int64)
        likely = np.zeros(real.num_items)
        if profile.is_popular:
            likely = np.where(counts > 0, np.log(np.maximum(counts, 1)), _NEVER_CLICKED)
        step = max(1, _BLOCK_CELLS // real.num_items)
        columns = [np.empty(0, dtype=np.int32)]
        for block in (slice(first, first + step) for first in range(0, num_fakes, step)):
            keys = likely + generator.gumbel(size=(len(lengths[block]), real.num_items))
            keys[place < num_sure[block, None]] = np.inf
            columns.append(_largest(keys, lengths[block]).columns)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return AttackResult(Clicks(offsets, np.concatenate(columns), real.num_items))

    def _draw_lengths(
        self, real: Clicks, num_targets: int, num_fakes: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        clicks = self.config.clicks
        if clicks is None:
            enough = real.lengths[real.lengths >= max(num_targets, 1)]
            if len(enough) == 0:
                raise UsageError(
                    "fake users click as often as real ones with a click for each target; no real "
                    f"user has {max(num_targets, 1)}. Set clicks."
                )
            return generator.choice(enough, num_fakes)
        if not num_targets <= clicks <= real.num_items:
            raise UsageError(
                f"{self.name} needs num targets <= clicks <= num items; "
                f"got {num_targets}, {clicks} and {real.num_items}."
            )
        return np.full(num_fakes, clicks, dtype=np.int64)


def _places(counts: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place [I] of each item, targets first, then by falling clicks [I]."""
    rising = -counts
    rising[targets] = -counts.max(initial=0) - 1
    places = np.empty(len(counts), dtype=np.int64)
    places[np.argsort(rising, kind="stable")] = np.arange(len(counts))
    return places


def _largest(keys: NDArray[np.float64], lengths: NDArray[np.int64]) -> Clicks:
    """Return the columns of the largest keys [F, I] of each row, lengths [F] of them."""
    order = np.argsort(-keys, axis=1, kind="stable")
    is_chosen = np.zeros(keys.shape, dtype=np.bool_)
    np.put_along_axis(is_chosen, order, np.arange(keys.shape[1]) < lengths[:, None], axis=1)
    return Clicks.from_dense(is_chosen)
