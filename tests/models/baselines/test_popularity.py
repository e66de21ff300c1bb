from __future__ import annotations

from ensue.data.histories import HistoryBatch
from ensue.models.baselines.popularity import Popularity, PopularityConfig
from tests.contracts.planted import histories_of


def test_scores_are_counts_of_interactions() -> None:
    model = Popularity(PopularityConfig(), num_users=3, num_items=4)
    model.fit_(histories_of([[1, 2, 2], [2], [1, 4]]))
    scores = model.score(HistoryBatch.from_lists([[4], []], users=[1, 0]))
    assert scores[:, 1:].tolist() == [[2.0, 3.0, 0.0, 1.0]] * 2


def test_nothing_to_count_gives_ties() -> None:
    model = Popularity(PopularityConfig(), num_users=1, num_items=3)
    model.fit_(histories_of([[]]))
    assert model.score(HistoryBatch.from_lists([[1]])).unique().tolist() == [0.0]
