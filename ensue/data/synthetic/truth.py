"""What is true of a synthetic log: the items, the users' tastes, and the next-item probabilities.

A step of a user with history h goes to item j with probability proportional to

    m * transition(j | h) + (1 - m) * (s * taste(j | user) + (1 - s) * popularity(j))

over the items that are not in h, where m is the transition strength and s the taste strength.
taste(j | user) is the user's category mix times popularity within the category. Where that is zero
everywhere (all successors seen, and m = 1) the step follows popularity. With repeat rate r the step
instead goes, with probability r, to an earlier position of h that does not hold the last item.

Shapes: B batch, T history length, I items, U users, C categories, S successors. Items and users are
numbered from 0 here, in the order of the tables; -1 is left padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.data.synthetic.config import SyntheticConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """The planted structure.

    popularity: [I], sums to 1.
    item_category: [I].
    item_quality: [I] in [0, 1], chance that an interested user likes the item.
    successors: [I, S] distinct items of the same category, most likely first.
    successor_weights: [S], sums to 1.
    lag_weights: [reach], sums to 1; the first is that of the last item.
    user_taste: [U, C], rows sum to 1.
    """

    config: SyntheticConfig
    popularity: Floats
    item_category: Ints
    item_quality: Floats
    successors: Ints
    successor_weights: Floats
    lag_weights: Floats
    user_taste: Floats

    @property
    def category_share(self) -> Floats:
        """Popularity of each category [C]."""
        return _category_share(self.popularity, self.item_category, self.config.num_categories)

    def is_interested(self, users: Ints, items: Ints) -> NDArray[np.bool_]:
        """Return whether each user likes the item's category more than the average user does."""
        category = self.item_category[items]
        return self.user_taste[users, category] > self.category_share[category]

    def next_probabilities(self, users: Ints, histories: Ints) -> Floats:
        """Return the probability of each next item [B, I] for users [B] with histories [B, T]."""
        users, histories = np.asarray(users), np.asarray(histories)
        new_items = self.new_item_probabilities(users, histories)
        if self.config.repeat_rate == 0.0:
            return new_items
        returns, can_return = self._return_probabilities(histories)
        rate = np.where(can_return, self.config.repeat_rate, 0.0)[:, None]
        return rate * returns + (1.0 - rate) * new_items

    def new_item_probabilities(self, users: Ints, histories: Ints) -> Floats:
        """Return the probability of each next item [B, I], given that it is a new one."""
        after, has_past = self._transition_probabilities(histories)
        strength = np.where(has_past, self.config.transition_strength, 0.0)[:, None]
        mixture = strength * after + (1.0 - strength) * self._free_probabilities(users)
        seen = self._seen(histories)
        mixture[seen] = 0.0
        is_stuck = mixture.sum(axis=1) == 0.0
        mixture[is_stuck] = np.where(seen[is_stuck], 0.0, self.popularity)
        mixture /= mixture.sum(axis=1, keepdims=True)
        return mixture

    def _free_probabilities(self, users: Ints) -> Floats:
        """Return what taste and popularity say [B, I]."""
        strength = self.config.taste_strength
        appeal = self.user_taste[users] / self.category_share  # [B, C]
        return self.popularity * (strength * appeal[:, self.item_category] + 1.0 - strength)

    def _transition_probabilities(self, histories: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """Return what the last items say [B, I], and for which rows they say something."""
        rows = np.arange(len(histories))
        after = np.zeros((len(histories), len(self.popularity)))
        for lag, lag_weight in enumerate(self.lag_weights[: histories.shape[1]], start=1):
            source = histories[:, -lag]
            has_source = source >= 0
            for rank, weight in enumerate(self.successor_weights):
                target = self.successors[source[has_source], rank]
                after[rows[has_source], target] += lag_weight * weight
        total = after.sum(axis=1)
        has_past = total > 0
        after[has_past] /= total[has_past, None]
        return after, has_past

    def _seen(self, histories: Ints) -> NDArray[np.bool_]:
        """Return which items are in the histories [B, I]."""
        seen = np.zeros((len(histories), len(self.popularity)), dtype=np.bool_)
        rows, columns = np.nonzero(histories >= 0)
        seen[rows, histories[rows, columns]] = True
        return seen

    def _return_probabilities(self, histories: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """Return where a step back goes [B, I], and for which rows there is such a step."""
        returns = np.zeros((len(histories), len(self.popularity)))
        can_go = can_return_to(histories)
        rows, columns = np.nonzero(can_go)
        np.add.at(returns, (rows, histories[rows, columns]), 1.0)
        total = returns.sum(axis=1)
        can_return = total > 0
        returns[can_return] /= total[can_return, None]
        return returns, can_return


def can_return_to(histories: Ints) -> NDArray[np.bool_]:
    """Return which positions of the histories [B, T] hold an item other than the last one."""
    if histories.shape[1] == 0:
        return np.zeros(histories.shape, dtype=np.bool_)
    return (histories >= 0) & (histories != histories[:, -1:])


def halving_weights(count: int) -> Floats:
    """Return weights [count] that halve and sum to 1.

    >>> halving_weights(2).round(4).tolist()
    [0.6667, 0.3333]
    """
    weights = 0.5 ** np.arange(count)
    return weights / weights.sum()


def draw_truth(config: SyntheticConfig, rng: np.random.Generator) -> Truth:
    """Return items and users drawn by `config`."""
    ranks = rng.permutation(config.num_items)  # popularity is not visible in the item's number
    weights = np.power(ranks + 1.0, -config.popularity_exponent, dtype=np.float64)
    popularity = weights / weights.sum()
    item_category = _draw_categories(config, rng)[ranks]
    share = _category_share(popularity, item_category, config.num_categories)
    return Truth(
        config=config,
        popularity=popularity,
        item_category=item_category,
        item_quality=rng.random(config.num_items),
        successors=_draw_successors(popularity, item_category, config, rng),
        successor_weights=halving_weights(config.num_successors),
        lag_weights=halving_weights(config.reach),
        user_taste=_draw_tastes(share, config.num_users, rng),
    )


def _category_share(popularity: Floats, item_category: Ints, num_categories: int) -> Floats:
    """Return the popularity of each category [C]."""
    share = np.zeros(num_categories)
    np.add.at(share, item_category, popularity)
    return share


def _draw_categories(config: SyntheticConfig, rng: np.random.Generator) -> Ints:
    """Return the category [I] by popularity rank: every run of C ranks holds each category once."""
    num_runs = -(-config.num_items // config.num_categories)
    runs = rng.permuted(np.tile(np.arange(config.num_categories), (num_runs, 1)), axis=1)
    return runs.reshape(-1)[: config.num_items]


def _draw_tastes(share: Floats, num_users: int, rng: np.random.Generator) -> Floats:
    """Return category mixes [U, C] that agree with `share` on average.

    The concentration of 2 leaves a user two or three categories that matter.
    """
    taste = rng.dirichlet(2.0 * share, size=num_users) if len(share) > 1 else None
    return np.ones((num_users, 1)) if taste is None else taste


def substitute_groups(item_category: Ints, num_substitutes: int) -> Ints:
    """Return the group [I] of each item: runs of `num_substitutes` items of a category.

    >>> substitute_groups(np.array([0, 1, 0, 0, 1]), 2).tolist()
    [0, 2, 0, 1, 2]
    """
    order = np.argsort(item_category, kind="stable")
    sizes = np.bincount(item_category)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    num_groups = -(-sizes // num_substitutes)
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.repeat(np.cumsum(num_groups) - num_groups, sizes) + place // num_substitutes
    return group


def _draw_successors(
    popularity: Floats, item_category: Ints, config: SyntheticConfig, rng: np.random.Generator
) -> Ints:
    """Return distinct successors [I, S] from the item's own category, drawn by popularity.

    Drawing them by popularity keeps the log's popularity near the given one, whatever the strength
    of the transitions.
    """
    group = substitute_groups(item_category, config.num_substitutes)
    first_of_group = np.unique(group, return_index=True)[1]
    sampler = CategorySampler(popularity, item_category)
    categories = np.repeat(item_category[first_of_group, None], config.num_successors, axis=1)
    successors = np.full(categories.shape, -1, dtype=np.int64)
    is_open = np.ones(categories.shape, dtype=np.bool_)
    attempt = 0
    while is_open.any():
        if attempt == 50:  # a head item can hold most of the weight: finish without weights
            sampler = CategorySampler(np.ones_like(popularity), item_category)
        successors[is_open] = sampler.draw(categories[is_open], rng)
        is_open = group[successors] == np.arange(len(successors))[:, None]
        for rank in range(1, config.num_successors):
            is_open[:, rank] |= (successors[:, :rank] == successors[:, rank, None]).any(axis=1)
        attempt += 1
    return successors[group]


class CategorySampler:
    """Draws items of given categories with probability proportional to their weights [I]."""

    def __init__(self, weights: Floats, item_category: Ints) -> None:
        self._items = np.argsort(item_category, kind="stable")
        sizes = np.bincount(item_category)
        self._last = np.cumsum(sizes) - 1
        self._first = self._last - sizes + 1
        edges = np.concatenate([np.zeros(1), np.cumsum(weights[self._items])])
        self._edges = edges[1:]
        self._start, self._end = edges[self._first], edges[self._last + 1]

    def draw(self, categories: Ints, rng: np.random.Generator) -> Ints:
        """Return one item for each of the categories [n]."""
        start, end = self._start[categories], self._end[categories]
        place = start + rng.random(len(categories)) * (end - start)
        found = np.searchsorted(self._edges, place, side="right")
        # Rounding can put a place on the edge of the next category.
        found = np.clip(found, self._first[categories], self._last[categories])
        return self._items[found]
