from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.evaluation.metrics import (
    FORMULAS,
    TargetRanks,
    all_metrics,
    average_precision,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
    slice_metrics,
)

# Ranks of one user's targets, 0 for "never"; the rest of a ranking of 30 items are other items.
user_ranks = st.lists(st.integers(1, 30), unique=True, max_size=12).flatmap(
    lambda ranks: st.integers(0 if ranks else 1, 3).map(lambda never: ranks + [0] * never)
)


def by_walking(ranks: list[int], k: int | None, length: int) -> dict[str, float]:
    """The definitions, walking down one ranking item by item."""
    hits, gain, precisions, first = 0, 0.0, 0.0, 0
    for place in range(1, min(k or length, length) + 1):
        if place in ranks:
            hits += 1
            gain += 1 / math.log2(1 + place)
            precisions += hits / place
            first = first or place
    ideal = sum(1 / math.log2(1 + n) for n in range(1, min(len(ranks), k or length) + 1))
    return {
        "hr": float(hits > 0),
        "precision": hits / min(k or length, length),
        "recall": hits / len(ranks),
        "ndcg": gain / ideal,
        "map": precisions / (min(len(ranks), k) if k else len(ranks)),
        "mrr": 1 / first if first else 0.0,
    }


@given(ranks=st.lists(user_ranks, min_size=1, max_size=5), k=st.integers(1, 40))
def test_metrics_equal_their_definition(ranks: list[list[int]], k: int) -> None:
    found = all_metrics(TargetRanks.of(ranks, length=30), [k])
    for user, own in enumerate(ranks):
        at_k, whole = by_walking(own, k, 30), by_walking(own, None, 30)
        for name, value in at_k.items():
            assert found[f"{name}@{k}"][user] == pytest.approx(value, abs=1e-12)
        for name in ("map", "mrr"):
            assert found[name][user] == pytest.approx(whole[name], abs=1e-12)


def test_worked_numbers() -> None:
    """Three targets at ranks 1, 4 and 10."""
    ranks = TargetRanks.of([[4, 10, 1]], length=100)
    assert average_precision(ranks)[0] == pytest.approx(0.6, abs=1e-15)
    assert [precision(ranks, k)[0] for k in (1, 5, 10)] == [1.0, 0.4, 0.3]
    assert [recall(ranks, k)[0] for k in (1, 5, 10)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_with_one_target_map_is_the_reciprocal_rank_cut_at_k() -> None:
    ranks = TargetRanks.of([[1], [2], [7]], length=100)
    assert average_precision(ranks, 5).tolist() == [1.0, 0.5, 0.0]
    assert average_precision(ranks, 5).tolist() == reciprocal_rank(ranks, 5).tolist()


def test_perfect_ranking_has_ndcg_and_map_of_one_at_every_cut_off() -> None:
    ranks = TargetRanks.of([[1, 2, 3, 4]], length=9)
    for k in (1, 3, 4, 5, 100):
        assert ndcg(ranks, k)[0] == average_precision(ranks, k)[0] == 1.0


def test_precision_of_a_short_ranking_divides_by_its_length() -> None:
    assert precision(TargetRanks.of([[1]], length=2), k=10).tolist() == [0.5]
    assert precision(TargetRanks.of([[0]], length=0), k=10).tolist() == [0.0]


def test_a_target_that_is_never_ranked_counts_as_missed() -> None:
    found = all_metrics(TargetRanks.of([[0], [0, 1]], length=5), [1, 10])
    assert all(values[0] == 0.0 for values in found.values())
    assert found["recall@10"][1] == found["map"][1] == 0.5


def test_a_user_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    ranks = [(rng.permutation(500)[: rng.integers(1, 60)] + 1).tolist() for _ in range(50)]
    together = all_metrics(TargetRanks.of(ranks, length=500), [10])
    for user in (0, 7, 49):
        alone = all_metrics(TargetRanks.of([ranks[user]], length=500), [10])
        assert {name: values[0] for name, values in alone.items()} == {
            name: values[user] for name, values in together.items()
        }


def test_restricting_keeps_ranks_and_drops_users_without_targets() -> None:
    ranks = TargetRanks.of([[2, 5], [3], [4, 9]], length=20)
    part = ranks.restrict(np.array([True, False, False, True, True]))
    assert part.users.tolist() == [0, 1, 1]
    assert part.ranks.tolist() == [2, 4, 9]
    found = slice_metrics(part, [5])
    assert found["map"].tolist() == pytest.approx([1 / 2, (1 / 4 + 2 / 9) / 2])
    assert found["recall@5"].tolist() == [1.0, 0.5]


def test_every_metric_has_its_formula() -> None:
    found = all_metrics(TargetRanks.of([[1]], length=1), [7])
    assert {name.replace("@7", "@k") for name in found} == set(FORMULAS)
