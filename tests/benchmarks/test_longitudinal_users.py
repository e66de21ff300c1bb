"""What is left of a direction of time behind what the films of a window are.

Shapes: N windows, E users.
"""

import numpy as np
import polars as pl
import pytest

from benchmarks._longitudinal_users import (
    PRIOR_COUNT,
    components,
    first_seen,
    left_of,
    places,
    spans,
    usual_places,
)
from ensue.data.longitudinal.measurements import ItemBags
from ensue.data.longitudinal.visits import Visits


def _visits() -> Visits:
    """Two windows of user 0, three of user 1, of two items each."""
    items = np.array([1, 2, 3, 1, 1, 3, 2, 4, 4, 3])
    bags = ItemBags(items, np.arange(0, 11, 2), ("a", "b", "c", "d"))
    times = np.array([5.0, 6.0, 1.0, 2.0, 9.0])
    return Visits(
        np.array([0, 0, 1, 1, 1]), pl.Series(["u", "v"]), times, bags, pl.DataFrame({"n": [0] * 5})
    )


def test_places_are_centered_within_each_user() -> None:
    assert places(_visits()) == pytest.approx([-1 / 4, 1 / 4, -1 / 3, 0, 1 / 3])
    assert spans(_visits()).tolist() == [1.0, 8.0]


def test_usual_places_are_those_of_the_users_trained_on() -> None:
    found = usual_places(_visits(), np.array([2, 3, 4]))
    a, b, c, d = np.array([-1 / 3, 0, 0, 1 / 3]) / (np.array([1, 1, 2, 2]) + PRIOR_COUNT)
    assert found == pytest.approx([(a + b) / 2, (c + a) / 2, (a + c) / 2, (b + d) / 2, (d + c) / 2])


def test_items_are_known_since_the_first_window_of_any_user() -> None:
    assert first_seen(_visits()).tolist() == [1.5, 1.0, 1.0, 2.0, 1.5]


def test_components_are_those_of_the_weighted_windows() -> None:
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(6)[:3] + 1 for _ in range(40)])
    bags = ItemBags(items, np.arange(0, 121, 3), tuple("abcdef"))
    visits = Visits(np.arange(40) // 4, pl.Series(range(10)), np.arange(40.0), bags, pl.DataFrame())
    train = np.arange(32)
    x = np.zeros((40, 6))
    x[np.repeat(np.arange(40), 3), items - 1] = 1.0
    x *= -np.log(x[train].mean(axis=0))
    expected = np.linalg.svd(x[train] - x[train].mean(axis=0))[2][:2] @ x.T
    found = components(visits, train, 2)[:, ::-1].T
    signs = np.sign((found * expected).sum(axis=1, keepdims=True))
    assert found * signs == pytest.approx(expected)


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_only_a_drift_of_the_users_own_is_left(own: float) -> None:
    rng = np.random.default_rng(0)
    entities = np.repeat(np.arange(200), 8)
    place = np.tile(np.linspace(-0.5, 0.5, 8), 200)
    films = place + 0.3 * rng.standard_normal(1600)
    user = rng.standard_normal(200)[entities]  # has no part in anything within users
    values = films + own * place + 3 * user + 0.3 * rng.standard_normal(1600)
    before, interval, p_value, _ = left_of(
        values, place, np.empty((1600, 0)), entities, within=True
    )
    assert before > 0.4
    assert interval[0] > 0.3
    assert p_value == pytest.approx(1e-4)
    after, interval, p_value, explained = left_of(
        values, place, films[:, None], entities, within=True
    )
    assert explained > 0.5
    assert (p_value < 0.001) == (own > 0)
    assert (interval[0] > 0) == (own > 0)
    assert after < before
