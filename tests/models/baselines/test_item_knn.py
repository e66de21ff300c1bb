from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

import ensue.models.baselines.item_knn as module
from ensue.data.histories import HistoryBatch
from ensue.models.baselines.item_knn import ItemKNN, ItemKNNConfig
from tests.contracts.planted import histories_of

# Users: {1, 2, 3}, {1, 2}, {2, 4}, {5}; item 6 is new. Users of each item: 2, 3, 1, 1, 1, 0.
SMALL = histories_of([[1, 2, 3], [2, 1, 2], [4, 2], [5]])


def fitted(histories: Any, num_items: int, **settings: Any) -> ItemKNN:
    config = ItemKNNConfig(**settings)
    model = ItemKNN(config, num_users=histories.num_users, num_items=num_items)
    model.fit_(histories)
    return model


def neighbors_of(model: ItemKNN, item: int) -> dict[int, float]:
    row = slice(int(model.offsets[item]), int(model.offsets[item + 1]))
    return dict(zip(model.neighbors[row].tolist(), model.similarities[row].tolist(), strict=True))


def test_similarities_worked_by_hand() -> None:
    model = fitted(SMALL, 6, shrinkage=1.0)
    s12, s13, s23, s24 = 2 / (sqrt(6) + 1), 1 / (sqrt(2) + 1), 1 / (sqrt(3) + 1), 1 / (sqrt(3) + 1)
    assert neighbors_of(model, 1) == pytest.approx({2: s12, 3: s13})
    assert neighbors_of(model, 2) == pytest.approx({1: s12, 3: s23, 4: s24})
    assert neighbors_of(model, 4) == pytest.approx({2: s24})
    assert neighbors_of(model, 5) == neighbors_of(model, 6) == neighbors_of(model, 0) == {}


def test_without_shrinkage_items_of_the_same_users_have_similarity_one() -> None:
    model = fitted(histories_of([[1, 2], [2, 1], [3]]), 3, shrinkage=0.0)
    assert neighbors_of(model, 1) == pytest.approx({2: 1.0})


def test_the_nearest_are_kept_and_ties_go_to_the_smaller_id() -> None:
    model = fitted(SMALL, 6, shrinkage=1.0, num_neighbors=2)
    assert list(neighbors_of(model, 2)) == [1, 3]  # 3 and 4 are equally similar to 2
    assert list(neighbors_of(fitted(SMALL, 6, shrinkage=1.0, num_neighbors=1), 3)) == [1]


def test_scores_sum_over_distinct_items_then_follow_popularity() -> None:
    model = fitted(SMALL, 6, shrinkage=1.0)
    similar = {item: neighbors_of(model, item) for item in range(1, 7)}
    scores = model.score(HistoryBatch.from_lists([[4, 1, 4]]))[0].tolist()
    assert scores[2] == pytest.approx(similar[4][2] + similar[1][2])
    assert scores[3] == pytest.approx(similar[1][3])
    counts = {1: 2, 4: 1, 5: 1, 6: 0}  # no evidence: by interactions, of which item 2 has 4
    assert [scores[i] for i in counts] == pytest.approx([n / 5 - 1 for n in counts.values()])


def test_decay_weighs_by_the_latest_occurrence() -> None:
    model = fitted(SMALL, 6, shrinkage=1.0, decay=0.5)
    scores = model.score(HistoryBatch.from_lists([[4, 1, 5, 4]]))[0]
    one, four = neighbors_of(model, 1), neighbors_of(model, 4)
    assert scores[2].item() == pytest.approx(four[2] + 0.25 * one[2])
    assert scores[3].item() == pytest.approx(0.25 * one[3])


def test_order_does_not_matter_without_decay() -> None:
    model = fitted(SMALL, 6)
    one, other = model.score(HistoryBatch.from_lists([[1, 4, 2], [2, 1, 4, 1]]))
    assert one.tolist() == other.tolist()


def brute_force(lists: list[list[int]], num_items: int, k: int, shrinkage: float) -> np.ndarray:
    """Similarities [I + 1, I + 1], all but the k nearest of each row set to 0."""
    matrix = np.zeros((len(lists), num_items + 1))
    for user, history in enumerate(lists):
        matrix[user, history] = 1
    common = matrix.T @ matrix
    size = common.diagonal()
    similarity = np.zeros_like(common)
    np.divide(common, np.sqrt(np.outer(size, size)) + shrinkage, similarity, where=common > 0)
    np.fill_diagonal(similarity, 0)
    for row in similarity:
        row[np.argsort(-row, kind="stable")[k:]] = 0
    return similarity


@pytest.mark.parametrize("k", [1, 4, 100])
def test_equals_brute_force_whatever_the_size_of_a_part(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(k)
    lists = [generator.integers(1, 31, generator.integers(1, 15)).tolist() for _ in range(60)]
    similarity = brute_force(lists, 30, k, shrinkage=3.0)
    model = fitted(histories_of(lists), 30, num_neighbors=k, shrinkage=3.0)
    expected = np.stack([similarity[list(set(history))].sum(0) for history in lists])
    batch = HistoryBatch.from_lists(lists)
    scores = model.score(batch)
    np.testing.assert_allclose(scores.numpy().clip(min=0), expected, rtol=1e-5)
    monkeypatch.setattr(module, "_MAX_GATHERED", 1)
    assert model.score(batch).tolist() == scores.tolist()
