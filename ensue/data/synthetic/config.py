"""The settings of a synthetic log."""

from __future__ import annotations

from pydantic import Field

from ensue.config import Config
from ensue.errors import ConfigError

# 2023-01-01 00:00 UTC
NEW_YEAR_2023_S = 1_672_531_200
DAY_S = 86_400


class SyntheticConfig(Config):
    """Sizes and strengths; a strength of 0 is noise, 1 is nothing but the planted structure.

    num_interactions: rows of the log, exactly.
    popularity_exponent: item of popularity rank r has weight r ** -exponent; 0 is uniform.
    taste_strength: share of the free choices (see the transitions) made by the user's long-lived
        mix of categories; the others follow popularity alone.
    transition_strength: share of the steps that go to a successor of a recent item.
    num_successors: successors of each item, the first twice as likely as the second, and so on.
    num_substitutes: items of a category that share their successors; with 1 every item has its own,
        and a model has nothing to carry over from one item to another.
    reach: how many of the last items can start a transition, the last twice as likely as the one
        before it, and so on. With reach 1 the log is a first-order Markov chain given the user.
    context_strength: share of the sessions on the user's own device and at the user's own hour.
    label_strength: how far click, like and watch seconds follow taste and item quality.
    repeat_rate: chance that a step returns to an earlier item; all other steps go to new items.
    min_length, max_length: rows of a user's history; never more than half of num_items.
    length_spread: standard deviation of the logarithm of the history length.
    days, start_s: the log covers `days` from `start_s` (seconds since 1970).
    """

    num_users: int = Field(default=5_000, ge=1)
    num_items: int = Field(default=2_000, ge=4)
    num_interactions: int = Field(default=200_000, ge=1)
    num_categories: int = Field(default=20, ge=1)
    popularity_exponent: float = Field(default=0.8, ge=0, le=3)
    taste_strength: float = Field(default=0.7, ge=0, le=1)
    transition_strength: float = Field(default=0.6, ge=0, le=1)
    num_successors: int = Field(default=5, ge=1, le=64)
    num_substitutes: int = Field(default=10, ge=1)
    reach: int = Field(default=2, ge=1, le=8)
    context_strength: float = Field(default=0.8, ge=0, le=1)
    label_strength: float = Field(default=0.8, ge=0, le=1)
    repeat_rate: float = Field(default=0.0, ge=0, le=1)
    length_spread: float = Field(default=0.8, ge=0, le=3)
    min_length: int = Field(default=5, ge=1)
    max_length: int = Field(default=300, ge=1)
    days: int = Field(default=365, ge=1)
    start_s: int = Field(default=NEW_YEAR_2023_S, ge=0)
    seed: int = Field(default=0, ge=0)

    @property
    def longest(self) -> int:
        """Most rows that a history can have."""
        return min(self.max_length, max(self.num_items // 2, 1))


def check_sizes(config: SyntheticConfig) -> None:
    """Check the settings that depend on each other.

    Raises:
        ConfigError: they leave no log to draw.
    """
    fewest, most = config.num_users * config.min_length, config.num_users * config.longest
    if not fewest <= config.num_interactions <= most:
        raise ConfigError(
            f"num_interactions must lie between {fewest} (num_users * min_length) and {most} "
            f"(num_users * the longest history, {config.longest}); got {config.num_interactions}."
        )
    smallest = config.num_items // config.num_categories
    needed = config.num_successors + config.num_substitutes
    if smallest < needed:
        raise ConfigError(
            f"num_items / num_categories must be at least {needed} (num_successors + "
            f"num_substitutes); got {smallest}."
        )
    if config.days * DAY_S <= config.longest:
        raise ConfigError(
            f"days must hold a second for every row of the longest history, {config.longest}; "
            f"got {config.days}."
        )
