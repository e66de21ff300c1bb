from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensue.audit.clicks import Clicks
from ensue.audit.defences import kept_rows, most_suspected, parse_defence
from ensue.audit.detectors import (
    DETECTORS,
    detectability,
    mahalanobis,
    neighbor_distances,
    suspicions,
    user_factors,
    wrmf_factors,
)
from ensue.errors import UsageError
from ensue.models.baselines.wrmf import initial_vectors
from tests.helpers import make_dataset


def random_clicks(num_users: int, num_items: int, seed: int) -> Clicks:
    rng = np.random.default_rng(seed)
    return Clicks.from_dense(rng.random((num_users, num_items)) < 0.3)


def test_factors_are_those_of_a_full_decomposition() -> None:
    clicks = random_clicks(60, 20, 0)
    dense = clicks.dense(np.arange(60)).astype(float)
    dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1)  # some have no clicks
    left, singular, _ = np.linalg.svd(dense, full_matrices=False)
    expected = (left * singular)[:, :16]
    places = user_factors(clicks, 16, seed=0)
    signs = np.sign((places * expected).sum(axis=0))
    np.testing.assert_allclose(places * signs, expected, atol=1e-6)
    assert user_factors(random_clicks(3, 25, 0), 16, seed=0).shape == (3, 3)


def test_weighted_factors_are_those_of_least_squares() -> None:
    clicks = random_clicks(9, 6, 3)
    dense = clicks.dense(np.arange(9)).astype(float)

    def solve(others: np.ndarray, rows: np.ndarray) -> np.ndarray:
        ridge = 0.05 * np.eye(16)
        weights = [np.diag(1 + 19 * row) for row in rows]
        return np.stack(
            [
                np.linalg.solve(others.T @ w @ others + ridge, others.T @ w @ row)
                for w, row in zip(weights, rows, strict=True)
            ]
        )

    items = initial_vectors(6, 16, 5).double().numpy()
    for _ in range(10):
        users = solve(items, dense)
        items = solve(users, dense.T)
    found = wrmf_factors(clicks, seed=5)
    np.testing.assert_allclose(found @ found.T, users @ users.T, rtol=1e-3, atol=1e-3)


def test_distances_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(1)
    places = rng.normal(size=(700, 3)) @ rng.normal(size=(3, 3))
    centered = places - places.mean(axis=0)
    inverse = np.linalg.inv(centered.T @ centered / 700)
    expected = [np.sqrt(row @ inverse @ row) for row in centered]
    np.testing.assert_allclose(mahalanobis(places), expected, rtol=1e-9)
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    nearest = np.sort(distances, axis=1)[:, 1:11].mean(axis=1)
    np.testing.assert_allclose(neighbor_distances(places, seed=0), nearest, rtol=1e-9)
    same = np.concatenate([places, np.ones((700, 1))], axis=1)  # in which nobody differs
    np.testing.assert_allclose(mahalanobis(same), expected, rtol=1e-6)


def test_a_sample_of_references_leaves_out_the_user_alone() -> None:
    places = np.arange(50.0)[:, None]
    found = neighbor_distances(places, seed=0, max_references=20)
    assert (found > 0).all()
    assert neighbor_distances(places[:1], seed=0).tolist() == [0.0]


def test_planted_fake_users_are_found() -> None:
    real = random_clicks(300, 80, 2)
    fakes = Clicks.from_rows([np.arange(70, 80)] * 6 + [np.arange(0)], 80)
    found = suspicions(real.join(fakes), seed=0)
    assert tuple(found) == DETECTORS
    areas = detectability({name: values[:306] for name, values in found.items()}, 300)
    assert areas["mahalanobis-16"] > 0.95
    assert areas["features"] > 0.95
    assert areas["clicks"] < 0.05
    assert areas["crowding-16"] == pytest.approx(1 - areas["neighbors-16"])
    assert all(np.isfinite(values).all() for values in found.values())
    again = suspicions(real.join(fakes), seed=0)
    assert all((again[name] == values).all() for name, values in found.items())


def test_features_are_counted_by_hand() -> None:
    clicks = Clicks.from_rows([np.array(row) for row in ([0, 1, 2], [0, 1], [0])], 4)
    found = suspicions(clicks, seed=0)  # clicks of the items: 3, 2, 1, 0
    assert found["clicks"].tolist() == [3, 2, 1]
    assert found["rare"].tolist() == [2 / 3, 1 / 2, 0]
    np.testing.assert_allclose(found["popularity"][1], (np.log(4) + np.log(3)) / 2)


def test_the_most_suspected_are_dropped(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [[1, 2, 3, 4]] * 8 + [[1, 2, 3, 4, 5, 6, 7, 8]] * 2)
    trained = data.column("split") == 0
    found = {name: np.zeros(10) for name in DETECTORS} | {"clicks": np.arange(10.0)}
    keep = kept_rows(parse_defence("drop:20%@clicks"), data, trained, found, seed=0)
    users = data.column("user")
    assert (keep == ~(trained & (users > 8))).all()
    rng = np.random.default_rng(0)
    assert len({*most_suspected(np.zeros(100), 0.1, rng), *most_suspected(np.zeros(100), 0.1, rng)}
    ) > 10  # of equal numbers not always the same  # fmt: skip


def test_a_cap_keeps_so_many_of_each_user(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [[1, 2, 3, 4, 5]] * 6 + [[1, 2, 3, 4, 5, 6, 7, 8]] * 4)
    trained = data.column("split") == 0
    users = data.column("user")
    keep = kept_rows(parse_defence("cap:50%"), data, trained, {}, seed=0)
    assert keep[~trained].all()
    assert np.bincount(users[keep & trained])[1:].tolist() == [3] * 10
    other = kept_rows(parse_defence("cap"), data, trained, {}, seed=1)
    assert (other != keep).any()


@pytest.mark.parametrize(
    "text", ["dropp", "drop:0%", "drop:2%@cliks", "cap:2%@clicks", "drop:", "cap:100%", "drop:nan"]
)
def test_defences_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"a defence must be drop.*got '{text}'"):
        parse_defence(text)
