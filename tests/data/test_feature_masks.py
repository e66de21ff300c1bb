from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.data.feature_masks import correlated_masks, draw_masks
from ensue.errors import ConfigError


def related(first_row: list[float]) -> np.ndarray:
    """Return a table whose feature 1 is related to the others as given, and the rest is zero."""
    table = np.zeros((len(first_row) + 1, len(first_row) + 1))
    table[0, 1:] = table[1:, 0] = first_row
    return table


def test_worked_masks() -> None:
    four = correlated_masks(related([0.9, 0.1, 0.5]))
    assert four[0].tolist() == [True, True, False, True]  # f1, f2, f4; the other view hides f3
    three = correlated_masks(related([0.9, 0.1]))
    assert three[0].tolist() == [True, True, False]
    assert correlated_masks(related([0.9, 0.1, 0.5]), 1)[0].tolist() == [True, True, False, False]


@given(st.integers(2, 8), st.integers(0, 1000))
def test_complementary_views_show_each_feature_once(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = correlated_masks(rng.random((count, count)))
    assert (masks.sum(axis=1) == min(count // 2 + 1, count - 1)).all()
    assert masks.diagonal().all()
    for kind in ("cfm", "rfm"):
        first, second = draw_masks(kind, masks, rng)  # type: ignore[arg-type]
        assert (first ^ second).all()


@given(st.integers(2, 8), st.integers(0, 1000))
def test_random_views_hide_half_each(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    views = draw_masks("no_complement", np.eye(count, dtype=bool), rng)
    assert views.sum(axis=1).tolist() == [count // 2] * 2
    assert not draw_masks("dropout", np.eye(count, dtype=bool), rng).any()


def test_random_views_are_drawn_apart() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_masks("no_complement", np.eye(6, dtype=bool), rng) for _ in range(50)]
    assert any((first & second).any() for first, second in draws)


def test_every_feature_is_a_seed_as_often() -> None:
    masks = correlated_masks(np.zeros((4, 4)), 0)
    rng = np.random.default_rng(0)
    seeds = [int(draw_masks("cfm", masks, rng)[0].argmax()) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(seeds) / 4000, 0.25, atol=0.03)


def test_one_feature_is_refused() -> None:
    with pytest.raises(ConfigError, match="two features or more, item ids counted; there is 1"):
        correlated_masks(np.zeros((1, 1)))


def test_too_many_correlated_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_correlated must be 0 to 1 with 3 features; got 2"):
        correlated_masks(np.zeros((3, 3)), 2)
