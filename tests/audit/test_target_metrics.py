from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.audit.target_metrics import OWNED, hits, target_metrics, target_ranks
from ensue.data.dataset import Dataset
from ensue.data.histories import HistoryBatch
from ensue.errors import RunError
from tests.helpers import make_dataset

NUM_ITEMS = 30


class Table:
    """Scores that are planted for each user."""

    max_len = 0

    def __init__(self, scores: Tensor) -> None:
        self.scores, self.num_items = scores, scores.shape[1] - 1

    def score(self, batch: HistoryBatch) -> Tensor:
        return self.scores[batch.users].clone()


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(3, 12)] + 1).tolist() for _ in range(40)
    ]
    return make_dataset(tmp_path / "data", histories, num_items=NUM_ITEMS)


def test_ranks_and_metrics_equal_a_sort(data: Dataset) -> None:
    scores = torch.randint(0, 6, (41, NUM_ITEMS + 1)).float()  # with ties
    targets = np.array([2, 7, 29])
    ranks = target_ranks(Table(scores), data, targets, num_users=35)
    known = data.histories("train+validation")
    expected = np.full((35, 3), OWNED)
    for user in range(1, 36):
        unseen = [item for item in range(1, NUM_ITEMS + 1) if item not in known[user]]
        order = sorted(unseen, key=lambda item: (-scores[user, item].item(), item))
        for place, target in enumerate(targets):
            if target + 1 in unseen:
                expected[user - 1, place] = order.index(target + 1)
    assert (ranks == expected).all()
    assert (ranks == OWNED).any()
    found = target_metrics(ranks, NUM_ITEMS, k=5)
    lists = [{rank for rank in row if rank != OWNED} for row in expected.tolist()]
    assert found.hit_rate == np.mean([any(rank < 5 for rank in row) for row in lists])
    assert found.mean_rank == pytest.approx(np.mean([rank for row in lists for rank in row]))
    assert found.truncated_rank == pytest.approx(
        np.where(expected == OWNED, NUM_ITEMS, expected).mean()
    )
    for place, own in enumerate(found.by_target):
        column = expected[:, place]
        assert own["owners"] == (column == OWNED).sum()
        assert own["hit_rate"] == ((column >= 0) & (column < 5)).mean()
        assert own["mean_rank"] == pytest.approx(column[column >= 0].mean())


def test_places_beyond_the_first_hundred_are_truncated() -> None:
    found = target_metrics(np.array([[99, 100], [OWNED, 0]]), 500, k=100)
    assert found.truncated_rank == (99 + 500 + 500 + 0) / 4
    assert found.hit_rate == 1.0
    assert found.mean_rank == pytest.approx(199 / 3)


def test_an_oracle_hits_always_and_owners_never(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [[1, 2], [2, 3], [3, 4]], split="none", num_items=9)
    scores = torch.rand(4, 10)
    scores[:, [6, 8, 9]] += 5
    ranks = target_ranks(Table(scores), data, np.array([5, 7, 8]))
    found = target_metrics(ranks, 9, k=1)
    assert (found.hit_rate, found.mean_rank) == (1.0, 1.0)  # (S - 1) / 2
    everyone = make_dataset(tmp_path / "all", [[6, 8, 9]] * 3, split="none")
    ranks = target_ranks(Table(scores), everyone, np.array([5, 7, 8]))
    found = target_metrics(ranks, 9, k=9)
    assert (found.hit_rate, found.mean_rank, found.truncated_rank) == (0.0, None, 9.0)
    assert not hits(ranks, 9).any()


def test_scores_that_are_no_numbers_are_refused(data: Dataset) -> None:
    scores = torch.zeros(41, NUM_ITEMS + 1)
    scores[7, 3] = torch.nan
    with pytest.raises(RunError, match="scores must be numbers; Table gave NaN"):
        target_ranks(Table(scores), data, np.array([1]))
