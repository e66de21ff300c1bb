from __future__ import annotations

import numpy as np
import pytest

from ensue.clustering import assign as module
from ensue.clustering import nearest
from ensue.clustering.assign import assign_few, cluster_sums, move_rows_, reassign
from ensue.clustering.exchange import exchange_
from ensue.clustering.kmeans import KMeansConfig, kmeans
from ensue.clustering.nearest import find, find_again


def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def groups():
    """120 groups of 5 to 44 rows that lie apart, and their planted sum of squared distances."""
    draw = np.random.default_rng(3)
    of = np.repeat(np.arange(120), draw.integers(5, 45, 120))
    rows = 4 * draw.normal(size=(120, 8))[of] + 0.1 * draw.normal(size=(len(of), 8))
    means = np.array([rows[of == k].mean(axis=0) for k in range(120)])
    return rows.astype(np.float32), float(((rows - means[of]) ** 2).sum())


def squared_distances(rows, centers):
    gaps = rows[:, None].astype(np.float64) - centers[None].astype(np.float64)
    return (gaps**2).sum(axis=2)


@pytest.mark.parametrize(("offset", "count"), [(0.0, 1), (0.0, 5), (1000.0, 16)])
def test_the_nearest_few(rows, monkeypatch, offset, count):
    monkeypatch.setattr(module, "MOST_ROWS", 130)
    shifted = rows + np.float32(offset)
    centers = shifted[::3]
    places, distances = assign_few(shifted[:500], centers, count)
    expected = squared_distances(shifted[:500], centers)
    order = expected.argsort(axis=1, kind="stable")[:, :count]
    assert places.tolist() == order.tolist()
    assert distances == pytest.approx(np.take_along_axis(expected, order, 1), rel=1e-5, abs=1e-9)
    assert distances[:, 0] == pytest.approx(expected.min(axis=1), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("step", [0.0, 0.01, 0.3, 3.0])
@pytest.mark.parametrize("num_far", [0, 8])
def test_found_again_is_exact(rows, monkeypatch, step, num_far):
    monkeypatch.setattr(nearest, "ROWS_AT_ONCE", 50)
    before = rows[:150] + np.float32(0.5)
    found = find(rows, before, 4)
    draw = rng()
    for _ in range(3):
        centers = before + np.float32(step) * draw.normal(size=before.shape).astype(np.float32)
        centers[:num_far] = rows[draw.choice(600, num_far)]
        found = find_again(rows, found, before, centers)
        expected = squared_distances(rows, centers)
        assert found.places[:, 0].tolist() == expected.argmin(axis=1).tolist()
        assert found.distances == pytest.approx(
            np.take_along_axis(expected, found.places.astype(np.int64), 1), rel=1e-5, abs=1e-9
        )
        assert all(len(set(places)) == 4 for places in found.places.tolist())
        np.put_along_axis(expected, found.places.astype(np.int64), np.inf, 1)
        assert (found.bounds * (1 - 1e-5) <= np.sqrt(expected.min(axis=1))).all()
        before = centers


def test_centers_that_stay_cost_nothing(rows, monkeypatch):
    found = find(rows, rows[:150], 4)
    monkeypatch.setattr(nearest, "assign_few", None)
    monkeypatch.setattr(nearest, "offer_", None)
    assert find_again(rows, found, rows[:150], rows[:150]).inertia == found.inertia


def test_rows_move_within_their_lists_and_between_sums(rows):
    lists = rng().permuted(np.tile(np.arange(40, dtype=np.int32), (600, 1)), axis=1)[:, :6]
    labels = np.arange(600) % 40
    after = reassign(rows, lists, labels, rows[:40], 5)
    asked = np.column_stack([labels, lists[:, :5]])
    expected = np.take_along_axis(squared_distances(rows, rows[:40]), asked, 1).argmin(axis=1)
    assert after.tolist() == asked[np.arange(600), expected].tolist()
    sums, counts = cluster_sums(rows, labels, 40)
    move_rows_(sums, counts, rows, labels, after)
    again = cluster_sums(rows, after, 40)
    assert sums == pytest.approx(again[0], abs=1e-9)
    assert counts.tolist() == again[1].tolist()


@pytest.mark.parametrize("spherical", [False, True])
def test_an_exchange_mends_one_cluster_of_two_groups_and_two_of_one(spherical):
    places = np.repeat([[9, 3, 0], [9, -3, 0], [0, 0, 9.5]], 20, axis=0)
    rows = (places + 0.1 * rng().normal(size=places.shape)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) if spherical else 1
    labels = np.repeat([0, 1, 2], [40, 10, 10])
    second = np.repeat([1, 2, 1], [40, 10, 10]).astype(np.int32)
    extra = np.repeat([50.0, 0.01, 0.01], [40, 10, 10])
    sums, _ = cluster_sums(rows, labels, 3)
    assert exchange_(labels, rows, second, extra, sums, spherical=spherical) == 1
    parts = [set(labels[first : first + 20].tolist()) for first in (0, 20, 40)]
    assert sorted(map(len, parts)) == [1, 1, 1]
    assert len(set.union(*parts)) == 3
    # Nothing is left to gain.
    sums, _ = cluster_sums(rows, labels, 3)
    before = labels.copy()
    assert (
        exchange_(
            labels,
            rows,
            ((labels + 1) % 3).astype(np.int32),
            np.full(60, 9.0),
            sums,
            spherical=spherical,
        )
        == 0
    )
    assert labels.tolist() == before.tolist()


def test_many_planted_groups_are_all_found(groups):
    rows, planted = groups
    found = kmeans(rows, 120, rng=rng())
    assert found.inertia == pytest.approx(planted, rel=1e-3)
    assert (np.diff(found.history) <= 0).all()
    assert found.labels.tolist() == squared_distances(rows, found.centers).argmin(axis=1).tolist()
    plain = kmeans(rows, 120, KMeansConfig(lloyd_passes=0), rng=rng(), centers=rows[:120])
    assert plain.inertia > 10 * planted


def test_samples_come_before_all_rows():
    draw = np.random.default_rng(5)
    rows = draw.normal(size=(101 * 110, 3)).astype(np.float32)
    seeds_alone = kmeans(rows, 101, KMeansConfig(batch_passes=0), rng=rng())
    sampled = kmeans(rows, 101, rng=rng())
    assert sampled.history[0] < 0.95 * seeds_alone.history[0]
    assert sampled.inertia < 1.02 * seeds_alone.inertia


def test_the_number_of_threads_changes_nothing(groups, monkeypatch):
    rows = groups[0] + rng().normal(size=groups[0].shape).astype(np.float32)
    one = kmeans(rows, 110, rng=rng())
    monkeypatch.setattr("ensue.nn.stretches.torch.get_num_threads", lambda: 3)
    three = kmeans(rows, 110, rng=rng())
    assert one.labels.tolist() == three.labels.tolist()
    assert one.history == three.history
    assert one.centers.tobytes() == three.centers.tobytes()
