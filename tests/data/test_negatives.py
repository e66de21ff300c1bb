from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.negatives import CatalogNegatives, UniformNegatives, _pick
from tests.data.test_windows import make

CHI_SQUARE_99_9 = {2: 13.8, 47: 84.0}  # degrees of freedom -> 99.9% quantile


def test_worked_example() -> None:
    """I = 5, the user has {2, 4}: draws 0, 1, 2 give 1, 3, 5."""
    sampler = UniformNegatives(make([4, 2, 2]), num_items=5)
    out = np.empty((1, 3), dtype=np.int64)
    uniform = np.array([[0.1, 0.5, 0.9]])
    _pick(uniform, np.array([1]), sampler._offsets, sampler._gaps, 5, out)
    assert out.tolist() == [[1, 3, 5]]


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 12), max_size=12))
def test_every_draw_is_the_complement_in_order(items: set[int]) -> None:
    free = [item for item in range(1, 13) if item not in items]
    sampler = UniformNegatives(make(sorted(items, reverse=True)), num_items=12)
    uniform = (np.arange(max(len(free), 1)) + 0.5)[None, :] / max(len(free), 1)
    out = np.empty(uniform.shape, dtype=np.int64)
    _pick(uniform, np.array([1]), sampler._offsets, sampler._gaps, 12, out)
    assert out[0].tolist() == (free or [0])


def test_uniform_over_a_million_draws() -> None:
    histories = make([4, 2, 2], [1, 50], [])
    sampler = UniformNegatives(histories, num_items=50)
    for user, items in ((1, {2, 4}), (2, {1, 50})):
        generator = torch.Generator().manual_seed(user)
        draws = sampler.draw(np.full(250_000, user), 4, generator).flatten().numpy()
        counts = np.bincount(draws, minlength=51)
        free = np.array([item for item in range(1, 51) if item not in items])
        assert counts[0] == 0
        assert counts[list(items)].sum() == 0
        expected = 1e6 / len(free)
        assert ((counts[free] - expected) ** 2 / expected).sum() < CHI_SQUARE_99_9[len(free) - 1]


def test_same_generator_same_draws() -> None:
    sampler = UniformNegatives(make([1, 2], [3]), num_items=9)
    users = np.array([1, 2, 2, 1])
    draws = [sampler.draw(users, 3, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])


def test_draws_of_the_catalog_follow_their_probabilities():
    counts = np.array([0, 0, 9, 4, 99])  # of items 1, 2, 3, 4
    for by_popularity, expected in (
        (False, [0.25] * 4),
        (True, [1 / 116, 10 / 116, 5 / 116, 1 - 16 / 116]),
    ):
        negatives = CatalogNegatives(counts, by_popularity=by_popularity)
        draws = negatives.draw(200_000, torch.Generator().manual_seed(0))
        shares = np.bincount(draws, minlength=5) / len(draws)
        assert shares[0] == 0
        assert shares[1:] == pytest.approx(expected, abs=0.004)
        assert negatives.log_q.exp()[1:].tolist() == pytest.approx(expected, rel=1e-6)
        assert negatives.log_q[0] == -torch.inf


def test_others_are_never_the_target():
    negatives = CatalogNegatives(np.zeros(4, dtype=np.int64), by_popularity=False)
    others = negatives.draw_others(torch.tensor([1, 2, 3]), 3000, torch.Generator().manual_seed(0))
    for target, row in zip((1, 2, 3), others, strict=True):
        counts = np.bincount(row, minlength=4)
        assert counts[[0, target]].tolist() == [0, 0]
        assert sorted(counts)[2:] == pytest.approx([1500, 1500], abs=150)
    alone = CatalogNegatives(np.zeros(2, dtype=np.int64), by_popularity=False)
    assert alone.draw_others(torch.tensor([1]), 2, torch.Generator()).tolist() == [[0, 0]]
