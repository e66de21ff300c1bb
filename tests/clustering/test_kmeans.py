from __future__ import annotations

import numpy as np
import pytest

from ensue.clustering import assign as module
from ensue.clustering import seeding
from ensue.clustering.assign import assign, cluster_sums
from ensue.clustering.kmeans import KMeansConfig, kmeans
from ensue.clustering.projection import fit_components
from ensue.clustering.seeding import seed_centers
from ensue.errors import DataError, UsageError

TO_THE_END = KMeansConfig(lloyd_passes=100, tolerance=0, restarts=1)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(6, 5))
    return (centers[rng.integers(0, 6, 400)] + 0.3 * rng.normal(size=(400, 5))).astype(np.float32)


def rng():
    return np.random.default_rng(7)


def squared_distances(rows, centers):
    gaps = rows[:, None].astype(np.float64) - centers[None].astype(np.float64)
    return (gaps**2).sum(axis=2)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_assignment_is_the_argmin(rows, monkeypatch, offset):
    monkeypatch.setattr(module, "MOST_ROWS", 70)  # several blocks, the last one shorter
    centers = rows[::3][:100] + np.float32(offset)
    labels, distances = assign(rows + np.float32(offset), centers)
    expected = squared_distances(rows + np.float32(offset), centers)
    assert labels.tolist() == expected.argmin(axis=1).tolist()
    assert distances == pytest.approx(expected.min(axis=1), rel=1e-9, abs=1e-12)


def test_the_first_of_equal_centers():
    labels, _ = assign(np.ones((3, 2), np.float32), np.ones((130, 2), np.float32))
    assert labels.tolist() == [0, 0, 0]


def test_sums_of_clusters(rows):
    labels = np.arange(400) % 37
    sums, counts = cluster_sums(rows, labels, 40)
    expected = [rows[labels == k].sum(axis=0, dtype=np.float64) for k in range(40)]
    assert sums == pytest.approx(np.array(expected))
    assert counts.tolist() == np.bincount(labels, minlength=40).tolist()


def test_lloyd_never_rises_and_ends_at_means(rows):
    found = kmeans(rows, 6, TO_THE_END, rng=rng())
    assert (np.diff(found.history) <= 1e-9).all()
    assert len(found.history) < 100
    means = [rows[found.labels == k].mean(axis=0) for k in range(6)]
    assert found.centers == pytest.approx(np.array(means), abs=1e-5)
    expected = squared_distances(rows, found.centers)
    assert found.labels.tolist() == expected.argmin(axis=1).tolist()
    assert found.inertia == pytest.approx(expected.min(axis=1).sum(), rel=1e-9)


def test_as_many_clusters_as_rows_and_one(rows):
    assert kmeans(rows, 400, rng=rng()).inertia == 0
    total = float(((rows - rows.mean(axis=0, dtype=np.float64)) ** 2).sum())
    assert kmeans(rows, 1, rng=rng()).inertia == pytest.approx(total, rel=1e-6)


def test_duplicates_make_no_nan_and_distinct_rows_are_all_found():
    rows = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
    found = kmeans(rows, 10, rng=rng())
    assert np.isfinite(found.centers).all()
    assert found.inertia == 0


def test_an_empty_cluster_goes_on_from_the_farthest_row(rows):
    far = np.full((1, 5), 50, np.float32)
    start = np.concatenate([rows[:2], np.full((1, 5), -90, np.float32)])
    found = kmeans(np.concatenate([rows, far]), 3, TO_THE_END, rng=rng(), centers=start)
    assert np.bincount(found.labels, minlength=3).min() == 1
    assert found.centers[2] == pytest.approx(far[0])
    assert (np.diff(found.history) <= 0).all()


def test_a_rotation_and_an_offset_and_the_order_of_columns_change_nothing(rows):
    start = rows[:6].copy()
    plain = kmeans(rows, 6, TO_THE_END, rng=rng(), centers=start)
    components = fit_components(rows)
    mean, axes = components.mean, components.axes.astype(np.float32)
    turned = ((rows - mean) @ axes).astype(np.float32)
    found = kmeans(turned, 6, TO_THE_END, rng=rng(), centers=turned[:6].copy())
    assert found.labels.tolist() == plain.labels.tolist()
    others = rows[:, [3, 1, 4, 0, 2]] + np.float32(8)
    found = kmeans(others, 6, TO_THE_END, rng=rng(), centers=others[:6].copy())
    assert found.labels.tolist() == plain.labels.tolist()


def test_mini_batches_find_the_planted_centers(rows):
    config = KMeansConfig(batch_size=50, batch_passes=5, lloyd_passes=0, tries=3, restarts=3)
    found = kmeans(rows, 6, config, rng=rng())
    best = kmeans(rows, 6, TO_THE_END, rng=rng()).inertia
    assert best <= found.inertia < 1.1 * best
    without = KMeansConfig(batch_size=50, batch_passes=0, lloyd_passes=0, tries=3, restarts=3)
    assert found.inertia < kmeans(rows, 6, without, rng=rng()).inertia


def test_the_running_mean_of_one_pass_is_the_mean():
    values = np.random.default_rng(1).normal(size=(90, 3)).astype(np.float32)
    config = KMeansConfig(batch_size=20, batch_passes=1, lloyd_passes=0)
    found = kmeans(values, 1, config, rng=rng(), centers=np.full((1, 3), 5, np.float32))
    assert found.centers[0] == pytest.approx(values.mean(axis=0), abs=1e-5)


def test_a_restart_never_ends_higher(rows):
    noisy = rows + rng().normal(size=rows.shape).astype(np.float32)
    one, ten = (
        kmeans(noisy, 12, KMeansConfig(restarts=restarts), rng=rng()).inertia
        for restarts in (1, None)
    )
    assert ten < one


def test_spherical_centers_have_length_one(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    config = KMeansConfig(spherical=True, batch_size=100, lloyd_passes=50, tolerance=0, restarts=1)
    found = kmeans(unit, 4, config, rng=rng())
    assert np.linalg.norm(found.centers, axis=1) == pytest.approx(1, abs=1e-6)
    assert (np.diff(found.history) <= 1e-6).all()
    cosines = unit @ found.centers.T
    assert found.labels.tolist() == cosines.argmax(axis=1).tolist()


@pytest.mark.parametrize("at_once", [0, 1 << 20])
def test_seeds_are_distinct_rows_far_apart(rows, monkeypatch, at_once):
    monkeypatch.setattr(seeding, "MOST_PRODUCTS", at_once)
    centers = seed_centers(rows, 6, tries=3, rng=rng())
    at = [int(np.flatnonzero((rows == center).all(axis=1))[0]) for center in centers]
    assert len(set(at)) == 6
    drawn = squared_distances(rows, rows[rng().choice(400, 6, replace=False)]).min(axis=1).sum()
    assert squared_distances(rows, centers).min(axis=1).sum() < drawn


def test_the_number_of_threads_changes_nothing(rows, monkeypatch):
    one = kmeans(rows, 40, rng=rng())
    monkeypatch.setattr("ensue.nn.stretches.torch.get_num_threads", lambda: 3)
    three = kmeans(rows, 40, rng=rng())
    assert one.labels.tolist() == three.labels.tolist()
    assert one.history == three.history


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"num_clusters": 401}, UsageError, "n = 400 rows; got 401"),
        ({"num_clusters": 0}, UsageError, "got 0"),
        ({"centers": np.zeros((3, 5), np.float32)}, UsageError, r"\[2, 5\]; got \[3, 5\]"),
        ({"rows": np.full((9, 2), np.nan, np.float32)}, DataError, "must be finite"),
    ],
)
def test_what_cannot_be_clustered(rows, change, error, text):
    with pytest.raises(error, match=text):
        kmeans(**{"rows": rows, "num_clusters": 2, "rng": rng(), **change})
