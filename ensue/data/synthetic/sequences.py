"""Draws histories from the planted structure, position by position, for all users at once.

Shapes: U users, T longest history, A users whose history is not complete yet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensue.data.synthetic.config import SyntheticConfig
from ensue.data.synthetic.truth import CategorySampler, Ints, Truth, can_return_to

BLOCK_USERS = 8_192  # bounds the padded histories of a block, and keeps them in cache
MAX_TRIES = 6
MAX_TABLE = 4_000_000  # probabilities held at once where rejection gave up


def draw_lengths(config: SyntheticConfig, rng: np.random.Generator) -> Ints:
    """Return history lengths [U], log-normal within the limits, with the given sum exactly."""
    spread = np.exp(rng.normal(0.0, config.length_spread, config.num_users))

    def lengths_at(log_scale: float) -> NDArray[np.float64]:
        return np.clip(np.exp(log_scale) * spread, config.min_length, config.longest)

    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        if lengths_at(middle).sum() < config.num_interactions:
            low = middle
        else:
            high = middle
    lengths = lengths_at(high)
    whole = np.floor(lengths).astype(np.int64)
    missing = config.num_interactions - int(whole.sum())
    # The largest fractions are rounded up, which keeps every length within the limits.
    whole[np.argsort(whole - lengths, kind="stable")[:missing]] += 1
    return whole


def draw_histories(truth: Truth, lengths: Ints, rng: np.random.Generator) -> Ints:
    """Return the items of all histories, one user after the other [sum of lengths]."""
    sampler = StepSampler(truth, rng)
    by_length = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(lengths) - lengths
    items = np.empty(int(lengths.sum()), dtype=np.int64)
    for first in range(0, len(lengths), BLOCK_USERS):
        users = by_length[first : first + BLOCK_USERS]
        histories = sampler.draw_block(users, lengths[users])
        rows, columns = np.nonzero(histories >= 0)
        items[starts[users[rows]] + columns] = histories[rows, columns]
    return items


class StepSampler:
    """Draws from `Truth.next_probabilities` without computing them: by rejection of seen items."""

    def __init__(self, truth: Truth, rng: np.random.Generator) -> None:
        self._truth = truth
        self._rng = rng
        self._in_category = CategorySampler(truth.popularity, truth.item_category)
        self._overall = CategorySampler(truth.popularity, np.zeros_like(truth.item_category))
        self._taste_edges = np.cumsum(truth.user_taste, axis=1)
        self._successor_edges = np.cumsum(truth.successor_weights)

    def draw_block(self, users: Ints, lengths: Ints) -> Ints:
        """Return histories [A, T] padded with -1 on the right; lengths [A] must not increase."""
        histories = np.full((len(users), int(lengths[0])), -1, dtype=np.int64)
        num_active = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")
        for position, active in enumerate(num_active):
            past = histories[:active, :position]
            histories[:active, position] = self.draw_step(users[:active], past)
        return histories

    def draw_step(self, users: Ints, past: Ints) -> Ints:
        """Return the next items [A] of users [A] with complete histories [A, T]."""
        items = self._propose(users, past)
        is_open = (past == items[:, None]).any(axis=1)
        for _ in range(MAX_TRIES):
            rows = np.flatnonzero(is_open)
            if len(rows) == 0:
                break
            items[rows] = self._propose(users[rows], past[rows])
            is_open[rows] = (past[rows] == items[rows, None]).any(axis=1)
        rows = np.flatnonzero(is_open)
        size = max(1, MAX_TABLE // len(self._truth.popularity))
        for part in np.split(rows, range(size, len(rows), size)):
            items[part] = self._draw_exactly(users[part], past[part])
        return self._return_some(items, past)

    def _propose(self, users: Ints, past: Ints) -> Ints:
        """Return items [A] from the mixture of transitions, taste and popularity."""
        config, rng = self._truth.config, self._rng
        kind = rng.random(len(users))
        items = np.empty(len(users), dtype=np.int64)
        transition = config.transition_strength if past.shape[1] else 0.0
        is_transition = kind < transition
        is_taste = ~is_transition & (kind < transition + (1.0 - transition) * config.taste_strength)
        is_popular = ~(is_transition | is_taste)
        items[is_transition] = self._propose_successors(past[is_transition])
        items[is_taste] = self._propose_by_taste(users[is_taste])
        anywhere = np.zeros(int(is_popular.sum()), dtype=np.int64)
        items[is_popular] = self._overall.draw(anywhere, rng)
        return items

    def _propose_successors(self, past: Ints) -> Ints:
        if len(past) == 0:
            return np.empty(0, dtype=np.int64)
        weights = self._truth.lag_weights[: past.shape[1]]
        lag_edges = np.cumsum(weights / weights.sum())
        lags = _pick(lag_edges, self._rng.random(len(past)))
        sources = past[np.arange(len(past)), past.shape[1] - 1 - lags]
        ranks = _pick(self._successor_edges, self._rng.random(len(past)))
        return self._truth.successors[sources, ranks]

    def _propose_by_taste(self, users: Ints) -> Ints:
        draws = self._rng.random((len(users), 1))
        categories = (self._taste_edges[users, :-1] <= draws).sum(axis=1)
        return self._in_category.draw(categories, self._rng)

    def _draw_exactly(self, users: Ints, past: Ints) -> Ints:
        """Return new items [A] from their probabilities, for users who have seen most of theirs."""
        probabilities = self._truth.new_item_probabilities(users, past)
        edges = np.cumsum(probabilities, axis=1)
        draws = self._rng.random((len(users), 1)) * edges[:, -1:]
        items = (edges <= draws).sum(axis=1)
        # A draw that rounds up to the total belongs to the last item with a probability.
        last = probabilities.shape[1] - 1 - (probabilities[:, ::-1] > 0).argmax(axis=1)
        return np.minimum(items, last)

    def _return_some(self, items: Ints, past: Ints) -> Ints:
        """Replace the configured share of new items [A] by earlier ones."""
        rate = self._truth.config.repeat_rate
        if rate == 0.0 or past.shape[1] == 0:
            return items
        can_go = can_return_to(past)
        is_return = (self._rng.random(len(items)) < rate) & can_go.any(axis=1)
        order = np.where(can_go, self._rng.random(past.shape), -1.0).argmax(axis=1)
        return np.where(is_return, past[np.arange(len(past)), order], items)


def _pick(edges: NDArray[np.float64], draws: NDArray[np.float64]) -> Ints:
    """Return the interval of `edges` [n] that each draw in [0, 1) falls into."""
    return np.minimum(np.searchsorted(edges, draws, side="right"), len(edges) - 1)
