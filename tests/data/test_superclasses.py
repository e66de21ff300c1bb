"""The generator with super-classes: its geometry, and that its posterior is the truth."""

from __future__ import annotations

import numpy as np
import pytest

from ensue.data.synthetic.superclasses import make_superclass_problem


def test_templates_have_the_planted_inner_products() -> None:
    problem = make_superclass_problem(np.random.default_rng(0))
    products = problem.templates @ problem.templates.T
    is_same = problem.superclasses[:, None] == problem.superclasses[None, :]
    expected = np.where(np.eye(20, dtype=bool), 1.0, np.where(is_same, 0.6, 0.0))
    np.testing.assert_allclose(products, expected, atol=1e-12)


def test_the_posterior_is_calibrated() -> None:
    rng = np.random.default_rng(1)
    problem = make_superclass_problem(rng)
    x, y = problem.draw(20_000, rng)
    logits = problem.logits(x).astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    # The mean probability of the best class is how often it is right, about .707.
    right = (p.argmax(axis=1) == y).mean()
    assert right == pytest.approx(p.max(axis=1).mean(), abs=0.012)
    assert right == pytest.approx(0.7067, abs=0.012)


def test_sizes_that_do_not_fit() -> None:
    for sizes in ({"num_classes": 7}, {"dim": 24}):
        with pytest.raises(ValueError, match="super-classes of one size"):
            make_superclass_problem(np.random.default_rng(0), **sizes)
