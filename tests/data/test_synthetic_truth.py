"""The oracle of a synthetic log: its probabilities by hand, and the steps drawn from them."""

from __future__ import annotations

import numpy as np
import pytest

from ensue.config import make_config
from ensue.data.synthetic import SyntheticConfig, Truth, generate
from ensue.data.synthetic.sequences import StepSampler
from ensue.data.synthetic.tables import label_rates
from tests.data.test_synthetic import chi_square_z


def tiny_truth(**settings: object) -> Truth:
    """Two categories of two items; user 0 likes category 0 alone, user 1 both alike."""
    config = make_config(
        SyntheticConfig,
        {"num_users": 2, "num_items": 4, "num_interactions": 4, "num_categories": 2,
         "num_successors": 1, "reach": 2, "min_length": 2, "max_length": 2, **settings},
    )  # fmt: skip
    return Truth(
        config=config,
        popularity=np.array([0.4, 0.2, 0.3, 0.1]),
        item_category=np.array([0, 0, 1, 1]),
        item_quality=np.array([0.9, 0.5, 0.5, 0.5]),
        successors=np.array([[1], [0], [3], [2]]),
        successor_weights=np.array([1.0]),
        lag_weights=np.array([2 / 3, 1 / 3]),
        user_taste=np.array([[1.0, 0.0], [0.5, 0.5]]),
    )


def test_oracle_by_hand() -> None:
    truth = tiny_truth(transition_strength=0.5, taste_strength=0.5)
    # Free choice of user 0: item 0 gets 0.5 * 0.4 / 0.6 + 0.5 * 0.4 = 8/15, item 1 half of that,
    # items 2 and 3 get 0.15 and 0.05. After [2, 0], both seen: item 1 with 2/3, item 3 with 1/3.
    item_1, item_3 = 0.5 * 2 / 3 + 0.5 * 4 / 15, 0.5 * 1 / 3 + 0.5 * 0.05
    expected = np.array([0.0, item_1, 0.0, item_3]) / (item_1 + item_3)
    actual = truth.next_probabilities(np.array([0]), np.array([[2, 0]]))
    np.testing.assert_allclose(actual, [expected])
    padded = truth.next_probabilities(np.array([0]), np.array([[-1, -1, 2, 0]]))
    np.testing.assert_allclose(padded, [expected])


def test_oracle_of_a_first_step_is_taste_and_popularity() -> None:
    truth = tiny_truth(transition_strength=1.0, taste_strength=1.0)
    actual = truth.next_probabilities(np.array([0, 1]), np.empty((2, 0), dtype=np.int64))
    np.testing.assert_allclose(actual, [[2 / 3, 1 / 3, 0, 0], [1 / 3, 1 / 6, 3 / 8, 1 / 8]])


def test_oracle_follows_popularity_where_all_successors_are_seen() -> None:
    truth = tiny_truth(transition_strength=1.0)
    actual = truth.next_probabilities(np.array([0]), np.array([[1, 0]]))
    np.testing.assert_allclose(actual, [[0, 0, 0.75, 0.25]])


def test_oracle_of_returns() -> None:
    truth = tiny_truth(transition_strength=0.0, taste_strength=0.0, repeat_rate=0.5)
    actual = truth.next_probabilities(np.array([0, 0]), np.array([[0, 1, 0], [-1, -1, 0]]))
    # [0, 1, 0] can only go back to 1; [0] has nothing to go back to.
    expected = [[0, 0.5, 0.5 * 0.75, 0.5 * 0.25], [0, 1 / 3, 1 / 2, 1 / 6]]
    np.testing.assert_allclose(actual, expected)


@pytest.mark.parametrize("history", [[], [7], [3, 7, 11], [5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize("repeat_rate", [0.0, 0.4])
def test_steps_are_drawn_from_the_oracle(history: list[int], repeat_rate: float) -> None:
    config = make_config(
        SyntheticConfig,
        {"num_users": 2, "num_items": 24, "num_interactions": 10, "num_categories": 3,
         "num_successors": 3, "num_substitutes": 2, "reach": 3, "repeat_rate": repeat_rate,
         "max_length": 12},
    )  # fmt: skip
    truth = generate(config).truth
    past = np.array([history], dtype=np.int64)
    expected = truth.next_probabilities(np.array([1]), past)[0]
    sampler = StepSampler(truth, np.random.default_rng(0))
    num_draws = 60_000
    users = np.ones(num_draws, dtype=np.int64)
    items = sampler.draw_step(users, np.repeat(past, num_draws, axis=0))
    possible = expected * num_draws >= 5
    observed = np.bincount(items, minlength=24)
    assert observed[expected == 0].sum() == 0
    z = chi_square_z(observed[possible], expected[possible] * num_draws, possible.sum() - 1)
    assert z < 4


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_label_rates_by_hand(strength: float) -> None:
    truth = tiny_truth(label_strength=strength)
    # User 0 has taste 1 for category 0 (share 0.6) and 0 for category 1 (share 0.4).
    click, like = label_rates(truth, np.array([0, 0]), np.array([0, 2]))
    expected_click = {0.0: [0.6, 0.6], 0.5: [0.75, 0.4], 1.0: [0.9, 0.2]}
    expected_like = {0.0: [0.4, 0.4], 0.5: [0.65, 0.2], 1.0: [0.9, 0.0]}
    np.testing.assert_allclose(click, expected_click[strength])
    np.testing.assert_allclose(like, expected_like[strength])
