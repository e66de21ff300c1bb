from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import ConfigError
from ensue.models.baselines.ease import EASE, EASEConfig
from tests.contracts.planted import histories_of


def fitted(histories: Histories, num_items: int, **settings: Any) -> EASE:
    model = EASE(EASEConfig(**settings), num_users=histories.num_users, num_items=num_items)
    model.fit_(histories)
    return model


def test_weights_worked_by_hand() -> None:
    # Items 1 and 2 share one user of two each: X'X = [[2, 1], [1, 2]]; with l2 = 1 the inverse of
    # [[3, 1], [1, 3]] is [[3, -1], [-1, 3]] / 8, so both weights are 1 / 3. Item 3 is apart.
    model = fitted(histories_of([[1, 2, 1], [1], [2], [3]]), 4, l2=1.0)
    expected = torch.zeros(5, 5)
    expected[1, 2] = expected[2, 1] = 1 / 3
    torch.testing.assert_close(model.weights, expected)


def test_scores_sum_over_distinct_items() -> None:
    model = fitted(histories_of([[1, 2, 3], [1, 2], [3, 2], [4]]), 4, l2=1.0)
    scores = model.score(HistoryBatch.from_lists([[3, 1, 3], [2]]))
    torch.testing.assert_close(scores[0], model.weights[1] + model.weights[3])
    torch.testing.assert_close(scores[1], model.weights[2])


def test_equals_the_closed_form_and_its_optimum() -> None:
    generator = np.random.default_rng(0)
    lists = [generator.integers(1, 21, generator.integers(1, 12)).tolist() for _ in range(80)]
    matrix = np.zeros((80, 21))
    for user, history in enumerate(lists):
        matrix[user, history] = 1
    model = fitted(histories_of(lists), 20, l2=7.0)
    inverse = np.linalg.inv(matrix.T @ matrix + 7.0 * np.eye(21))
    expected = -inverse / inverse.diagonal()
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(model.weights.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(
        model.score(HistoryBatch.from_lists(lists)).numpy(), matrix @ expected, atol=1e-5
    )
    # The weights minimize |X - X W|^2 + l2 |W|^2 with zero diagonal: no gradient is left off it.
    weights = model.weights.double().numpy()
    gradient = matrix.T @ (matrix @ weights - matrix) + 7.0 * weights
    np.fill_diagonal(gradient, 0)
    assert np.abs(gradient).max() < 1e-4


@pytest.mark.parametrize("history", [[], [4], [0]])
def test_a_history_without_a_known_item_gets_popularity(history: list[int]) -> None:
    model = fitted(histories_of([[1, 2, 2], [2, 3]]), 4, l2=1.0)
    assert model.score(HistoryBatch.from_lists([[1], history]))[1].tolist() == [0, 1, 3, 1, 0]


def test_too_many_items_are_refused_with_the_memory_they_need() -> None:
    with pytest.raises(ConfigError, match=r"max_items=20000 items; got 50000, .* 40\.0 GB to fit"):
        EASE(EASEConfig(), num_users=1, num_items=50_000)
