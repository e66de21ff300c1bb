from __future__ import annotations

import numpy as np
import pytest

from ensue.clustering import projection as module
from ensue.clustering.projection import fit_components, fit_mean
from ensue.errors import UsageError


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)


def test_components_are_those_of_the_singular_values(rows, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)
    found = fit_components(rows)
    centered = rows - rows.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(centered, full_matrices=False)
    assert found.variances == pytest.approx(lengths**2 / 300, rel=1e-6)
    assert np.abs((found.axes * axes.T).sum(axis=0)) == pytest.approx(1, abs=1e-6)
    three = found.projection(3)
    assert three.apply(rows) == pytest.approx(centered @ found.axes[:, :3], abs=1e-4)
    assert three.explained == pytest.approx((lengths[:3] ** 2).sum() / (lengths**2).sum())


def test_all_components_are_left_as_features(rows):
    projection = fit_components(rows).projection()
    assert (projection.basis, projection.dim, projection.explained) == (None, 6, 1.0)
    assert projection.apply(rows) == pytest.approx(rows - rows.mean(axis=0), abs=1e-5)
    assert fit_mean(rows).apply(rows).tolist() == projection.apply(rows).tolist()


def test_whitening_makes_the_covariance_one(rows):
    white = fit_components(rows).projection(4, whiten=True).apply(rows)
    assert white.T @ white / len(rows) == pytest.approx(np.eye(4), abs=1e-4)


def test_whitening_leaves_out_what_does_not_vary(rows):
    wide = np.concatenate([rows, rows[:, :2], np.ones((300, 1), np.float32)], axis=1)
    components = fit_components(wide)
    assert components.rank == 6
    assert components.projection(whiten=True).dim == 6
    with pytest.raises(UsageError, match="6 here; got dim=7"):
        components.projection(7, whiten=True)


def test_spherical_rows_have_length_one_and_zeros_stay(rows):
    same = np.concatenate([rows, [fit_components(rows).mean]]).astype(np.float32)
    found = fit_components(rows).projection(2, spherical=True).apply(same)
    assert np.linalg.norm(found[:-1], axis=1) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(found).all()


def test_what_does_not_fit(rows):
    components = fit_components(rows)
    with pytest.raises(UsageError, match="1 to 6; got 7"):
        components.projection(7)
    with pytest.raises(UsageError, match=r"\[n, 6\].*got \[2, 5\]"):
        components.projection().apply(np.zeros((2, 5), np.float32))
