from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ensue.config import make_config
from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import ConfigError
from ensue.models.baselines.wrmf import WRMF, WRMFConfig, half_sweep, initial_vectors
from tests.contracts.planted import histories_of

WEIGHT, RIDGE = 7.0, 0.3
LISTS = [np.random.default_rng(user).integers(1, 21, 1 + user % 14).tolist() for user in range(60)]


def fitted(histories: Histories, num_items: int, **settings: Any) -> WRMF:
    config = WRMFConfig(**{"dim": 6, "weight": WEIGHT, "ridge": RIDGE, **settings})
    model = WRMF(config, num_users=histories.num_users, num_items=num_items)
    model.fit_(histories)
    return model


def dense_solution(
    vectors: NDArray[np.float64], clicked: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (V'CV + ridge)^-1 V'Cx for each row x of `clicked` [B, N], C = 1 + (weight - 1) x."""
    rows = []
    for x in clicked:
        weighted = vectors * (1 + (WEIGHT - 1) * x)[:, None]
        matrix = vectors.T @ weighted + RIDGE * np.eye(vectors.shape[1])
        rows.append(np.linalg.solve(matrix, weighted.T @ x))
    return np.array(rows)


def clicks_of(lists: list[list[int]], num_items: int) -> NDArray[np.float64]:
    clicked = np.zeros((len(lists), num_items + 1))
    for row, items in enumerate(lists):
        clicked[row, items] = 1
    return clicked


def test_a_half_sweep_solves_the_normal_equations() -> None:
    clicked = clicks_of([*LISTS, []], 20)
    vectors = np.random.default_rng(0).normal(size=(21, 6))
    offsets = torch.from_numpy(np.cumsum([0, *clicked.sum(1)], dtype=np.int64))
    members = torch.from_numpy(np.nonzero(clicked)[1])
    found = half_sweep(torch.from_numpy(vectors), offsets, members, WEIGHT, RIDGE).numpy()
    np.testing.assert_allclose(found, dense_solution(vectors, clicked), rtol=0, atol=1e-12)


def test_scores_are_those_of_dense_sweeps_and_a_last_solution_for_the_history() -> None:
    model = fitted(histories_of(LISTS), 22, sweeps=3)  # items 21 and 22 have no user
    clicked = clicks_of(LISTS, 22)
    items = initial_vectors(23, 6, seed=0).double().numpy()
    items[0] = 0
    for _ in range(3):
        users = dense_solution(items, clicked)
        items = dense_solution(users, clicked.T)
    histories = [LISTS[5], [3, 9, 3, 4], list(range(1, 21)), [7, 21]]
    expected = dense_solution(items, clicks_of(histories, 22)) @ items.T
    found = model.score(HistoryBatch.from_lists(histories, [6, 6, 0, 0])).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_sweeps_lower_the_loss_they_are_for() -> None:
    clicked = clicks_of(LISTS, 20)
    losses = []
    for sweeps in (1, 2, 8):
        scores = fitted(histories_of(LISTS), 20, ridge=1e-3, sweeps=sweeps).score(
            HistoryBatch.from_lists(LISTS)
        )
        weights = 1 + (WEIGHT - 1) * clicked
        losses.append(float((weights * (clicked - scores.double().numpy()) ** 2).sum()))
    assert losses[0] > losses[1] > losses[2] > 0


@pytest.mark.parametrize("history", [[], [0], [21]])
def test_a_history_without_a_vector_gets_the_mean_of_the_training_users(history: list[int]) -> None:
    model = fitted(histories_of([*LISTS, []]), 21)
    found = model.score(HistoryBatch.from_lists([history, [1]]))[0]
    expected = model.score(HistoryBatch.from_lists(LISTS)).mean(dim=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found[21] == 0


def test_the_seed_decides_where_it_starts() -> None:
    first, same, other = (
        fitted(histories_of(LISTS), 20, seed=seed, sweeps=1) for seed in (1, 1, 2)
    )
    assert torch.equal(first.item_vectors, same.item_vectors)
    assert not torch.allclose(first.item_vectors, other.item_vectors, atol=1e-3)


def test_a_click_weighs_at_least_as_much_as_none() -> None:
    with pytest.raises(ConfigError, match=r"WRMFConfig.weight: .* 1; got 0.5"):
        make_config(WRMFConfig, {"weight": 0.5})


def test_a_ridge_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ridge=5000 leaves no vector of this data. Lower it"):
        fitted(histories_of(LISTS), 20, ridge=5000.0)
