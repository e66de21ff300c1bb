"""The mixed model, against the definition of its likelihood and the numbers of statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ensue.errors import DataError
from ensue.evaluation.mixed_model import fit_mixed_model

Floats = NDArray[np.float64]
# statsmodels 0.15: MixedLM(y, [1, t, g, g t], groups=entity, exog_re=[1, t]), t around its mean.
STATSMODELS = {
    "values": [2.658600, 0.411438, 1.621875, 0.675697],
    "errors": [0.268975, 0.069104, 0.379978, 0.096059],
    "deviations": [1.182526, 0.226910, 0.296410],
}
DEVIANCE = 232.951614


def planted(num_entities: int = 40) -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(7)
    counts = rng.integers(1, 6, num_entities)
    entities = np.repeat(np.arange(num_entities), counts)
    groups = entities % 2
    times = rng.uniform(0, 4, len(entities))
    own = rng.standard_normal((num_entities, 2))[entities] @ np.array([[1.0, 0.1], [0.0, 0.3]])
    y = 2 + own[:, 0] + (0.5 + 0.7 * groups + own[:, 1]) * times
    return y + 0.3 * rng.standard_normal(len(times)), times, entities, groups


def deviance_by_definition(
    y: Floats, x: Floats, z: Floats, entities: NDArray[np.int64], covariance: Floats, noise: float
) -> float:
    """Return minus twice the restricted log-likelihood, by the covariance of all visits."""
    same = entities[:, None] == entities[None, :]
    whole = (z @ covariance @ z.T) * same + noise * np.eye(len(y))
    inverse = np.linalg.inv(whole)
    inner = x.T @ inverse @ x
    beta = np.linalg.solve(inner, x.T @ inverse @ y)
    left = y - x @ beta
    freedom = len(y) - x.shape[1]
    return float(
        freedom * math.log(2 * math.pi)
        + np.linalg.slogdet(whole)[1]
        + np.linalg.slogdet(inner)[1]
        + left @ inverse @ left
    )


def test_no_covariance_is_more_likely() -> None:
    y, times, entities, groups = planted()
    found = fit_mixed_model(y, times, entities, groups=groups, group_names=["slow", "fast"])
    z = np.column_stack([np.ones(len(y)), times - found.center])
    x = np.column_stack([z, z * groups[:, None]])
    assert found.correlation is not None
    start, rate, noise = found.deviations
    both = found.correlation * start * rate
    best = np.array([[start**2, both], [both, rate**2]])
    least = deviance_by_definition(y, x, z, entities, best, noise**2)
    assert found.deviance == pytest.approx(least, abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        factor = np.linalg.cholesky(best) + 0.03 * rng.standard_normal((2, 2))
        other = noise**2 * math.exp(0.1 * rng.standard_normal())
        assert deviance_by_definition(y, x, z, entities, factor @ factor.T, other) > least - 1e-6


def test_lines_of_entities_are_their_conditional_means() -> None:
    y, times, entities, groups = planted()
    found = fit_mixed_model(y, times, entities, groups=groups, group_names=["slow", "fast"])
    z = np.column_stack([np.ones(len(y)), times - found.center])
    assert found.correlation is not None
    start, rate, noise = found.deviations
    both = found.correlation * start * rate
    covariance = np.array([[start**2, both], [both, rate**2]])
    values = [c.value for c in found.coefficients]
    for entity in (0, 1, 5):
        rows = entities == entity
        line = np.array(values[:2]) + (entity % 2) * np.array(values[2:])
        own = z[rows]
        whole = own @ covariance @ own.T + noise**2 * np.eye(rows.sum())
        line = line + covariance @ own.T @ np.linalg.solve(whole, y[rows] - own @ line)
        assert found.intercepts[entity] == pytest.approx(line[0], abs=1e-6)
        assert found.slopes[entity] == pytest.approx(line[1], abs=1e-6)


def test_numbers_of_statsmodels() -> None:
    y, times, entities, groups = planted()
    found = fit_mixed_model(y, times, entities, groups=groups, group_names=["slow", "fast"])
    names = [c.name for c in found.coefficients]
    assert names == ["intercept", "slope", "fast", "fast:slope"]
    assert [c.value for c in found.coefficients] == pytest.approx(STATSMODELS["values"], abs=1e-3)
    assert [c.error for c in found.coefficients] == pytest.approx(STATSMODELS["errors"], abs=1e-3)
    assert found.deviations == pytest.approx(STATSMODELS["deviations"], abs=1e-3)
    assert found.deviance == pytest.approx(DEVIANCE, abs=1e-4)
    assert found.coefficient("fast:slope").p_value < 1e-6


def test_units_only_scale_what_is_found() -> None:
    y, times, entities, _ = planted()
    one = fit_mixed_model(y, times, entities)
    other = fit_mixed_model(100 * y, 365 * times + 7, entities)
    np.testing.assert_allclose(other.slopes, one.slopes * 100 / 365, rtol=1e-4, atol=1e-6)
    assert other.coefficients[1].p_value == pytest.approx(one.coefficients[1].p_value, rel=1e-3)


def test_entities_that_do_not_differ() -> None:
    rng = np.random.default_rng(1)
    times, entities = np.tile(np.arange(4.0), 50), np.repeat(np.arange(50), 4)
    y = 1 + 2 * times + 0.1 * rng.standard_normal(200)
    found = fit_mixed_model(y, times, entities)
    ordinary = np.polynomial.polynomial.polyfit(times, y, 1)
    assert found.coefficient("slope").value == pytest.approx(ordinary[1], abs=1e-6)
    assert max(found.deviations[:2]) < 0.03


def test_too_little_is_said() -> None:
    entities = np.arange(4)
    with pytest.raises(DataError, match="more visits than coefficients; got 4 visits with 1 times"):
        fit_mixed_model(np.arange(4.0), np.ones(4), entities)
    with pytest.raises(DataError, match="two visits at different times in every group"):
        fit_mixed_model(
            np.arange(6.0),
            np.arange(6.0),
            np.arange(6),
            groups=np.array([0, 0, 0, 0, 0, 1]),
            group_names=["a", "b"],
        )
