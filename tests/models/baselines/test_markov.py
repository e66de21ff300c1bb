from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from ensue.config import make_config
from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import ConfigError
from ensue.models.baselines.markov import Markov, MarkovConfig
from tests.contracts.planted import histories_of


def fitted(histories: Histories, num_items: int, smoothing: float) -> Markov:
    config = MarkovConfig(smoothing=smoothing)
    model = Markov(config, num_users=histories.num_users, num_items=num_items)
    model.fit_(histories)
    return model


def test_probabilities_worked_by_hand() -> None:
    # 1 -> 2 twice, 1 -> 3 once, 2 -> 1 once; 3, 4 and the end of a history lead nowhere.
    model = fitted(histories_of([[1, 2, 1, 2], [1, 3], [4], []]), num_items=5, smoothing=2.0)
    share = np.array([3, 2, 1, 1, 0]) / 7
    after_1 = (np.array([0, 2, 1, 0, 0]) + 2 * share) / 5
    after_2 = (np.array([1, 0, 0, 0, 0]) + 2 * share) / 3
    scores = model.score(HistoryBatch.from_lists([[2, 1], [1, 2], [3], [5], []]))[:, 1:]
    expected = np.stack([after_1, after_2, share, share, share])
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


def test_a_repeat_is_a_transition_like_any_other() -> None:
    model = fitted(histories_of([[2, 2, 2, 1]]), num_items=2, smoothing=1.0)
    scores = model.score(HistoryBatch.from_lists([[2]]))[0, 1:]
    np.testing.assert_allclose(scores.numpy(), [(1 + 0.25) / 4, (2 + 0.75) / 4], rtol=1e-6)


def test_equals_brute_force_on_random_histories() -> None:
    generator = np.random.default_rng(3)
    lists = [generator.integers(1, 13, generator.integers(0, 30)).tolist() for _ in range(40)]
    counts = np.zeros((13, 13))
    for history in lists:
        for item, after in pairwise(history):
            counts[item, after] += 1
    share = np.bincount([item for history in lists for item in history], minlength=13)
    share = share / share.sum()
    model = fitted(histories_of(lists), num_items=12, smoothing=5.0)
    scores = model.score(HistoryBatch.from_lists([[item] for item in range(1, 13)]))
    expected = (counts[1:] + 5 * share) / (counts[1:].sum(1, keepdims=True) + 5)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(scores.sum(1).numpy(), 1.0, rtol=1e-5)


def test_histories_that_hold_no_transition() -> None:
    model = fitted(histories_of([[2], [2], [1]]), num_items=3, smoothing=10.0)
    scores = model.score(HistoryBatch.from_lists([[1], []]))
    torch.testing.assert_close(scores, torch.tensor([[0, 1 / 3, 2 / 3, 0]] * 2))


def test_smoothing_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"MarkovConfig.smoothing: .*greater than 0; got 0"):
        make_config(MarkovConfig, {"smoothing": 0})
