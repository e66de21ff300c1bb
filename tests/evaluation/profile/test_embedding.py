from __future__ import annotations

import numpy as np
import pytest
import torch

from ensue.evaluation.profile import embedding
from ensue.evaluation.profile.embedding import svd_vectors
from ensue.evaluation.profile.shuffle import shuffle_histories
from tests.contracts.planted import histories_of


def vectors_of(lists: list[list[int]], num_items: int, dim: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return svd_vectors(histories_of(lists), num_items, dim=dim, generator=generator)


def random_lists(num_users: int, num_items: int) -> list[list[int]]:
    """Return histories of users with tastes, so that the singular values differ; with repeats."""
    rng = np.random.default_rng(0)
    lists = []
    for user in range(num_users):
        weights = np.exp(-np.abs(np.arange(num_items) - num_items * user / num_users) / 4)
        lists.append((rng.choice(num_items, 12, p=weights / weights.sum()) + 1).tolist())
    return lists


@pytest.mark.parametrize(
    ("num_items", "tolerance"),
    [(12, 1e-4), (30, 5e-3)],  # the first fits in the subspace: the iteration has nothing to do
)
def test_cosines_equal_those_of_a_dense_svd(num_items: int, tolerance: float) -> None:
    lists = random_lists(80, num_items)
    matrix = np.zeros((80, num_items))
    for user, history in enumerate(lists):
        matrix[user, np.array(history) - 1] = 1.0
    _, values, factors = np.linalg.svd(matrix, full_matrices=False)
    expected = factors[:5].T * values[:5]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = vectors_of(lists, num_items, dim=5)[1:]
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=tolerance)
    # six factors, or factors without their singular values, are not within the tolerance
    for other in (factors[:6].T * values[:6], factors[:5].T):
        other = other / np.linalg.norm(other, axis=1, keepdims=True)
        assert np.abs(found @ found.T - other @ other.T).max() > 10 * tolerance


def test_vectors_have_unit_length_and_items_without_users_have_none() -> None:
    found = vectors_of(random_lists(80, 30), 35, dim=5)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths[1:31], 1.0, rtol=1e-5)
    assert lengths[0] == 0.0
    assert lengths[31:].tolist() == [0.0] * 5


def test_order_and_repeats_do_not_matter() -> None:
    lists = random_lists(80, 30)
    expected = vectors_of(lists, 30, dim=5)
    shuffled = shuffle_histories(histories_of(lists), np.random.default_rng(1))
    doubled = [shuffled[user].tolist() * 2 for user in range(1, 81)]
    found = vectors_of(doubled, 30, dim=5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [5, 30])  # fewer than a user has, and more
def test_working_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    lists = [[], *random_lists(40, 30), []]
    expected = vectors_of(lists, 30, dim=5)
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", rows)
    np.testing.assert_allclose(vectors_of(lists, 30, dim=5), expected, atol=1e-4)


def test_more_factors_than_there_are() -> None:
    """Two users with nothing in common: two directions, and items of one user are the same."""
    found = vectors_of([[1, 2], [3]], 3, dim=32)
    expected = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-5)
