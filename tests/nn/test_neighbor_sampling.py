"""Drawn neighbors: how many, that sums are right on average, and both directions of a product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.nn.neighbor_sampling import sample_neighbors
from ensue.nn.propagation import Adjacency, Norm, SparseRows


def graph(norm: Norm = "sym") -> Adjacency:
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 3, (6, 9)) * rng.uniform(0.5, 1.5, (6, 9))
    weights[2] = 0
    sources, targets = np.nonzero(weights)
    return Adjacency.build(
        sources + 1, targets + 1, weights[sources, targets], weights.shape, norm=norm
    )


def dense(matrix: SparseRows) -> Tensor:
    return matrix.multiply(torch.eye(matrix.num_columns, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_sums_over_drawn_neighbors_are_right_on_average(norm: Norm) -> None:
    whole = graph(norm)
    torch.manual_seed(0)
    drawn = [sample_neighbors(whole, 3) for _ in range(500)]
    for name in ("to_a", "to_b"):
        expected = dense(getattr(whole, name))
        found = torch.stack([dense(getattr(one, name)) for one in drawn])
        assert int((found > 0).sum(dim=2).max()) == 3
        error = found.std(dim=0) / len(drawn) ** 0.5
        assert ((found.mean(dim=0) - expected).abs() <= 5 * error + 1e-7).all()


def test_the_gradient_is_that_of_the_same_draw() -> None:
    torch.manual_seed(0)
    one = sample_neighbors(graph(), 2)
    torch.testing.assert_close(dense(one.from_b), dense(one.to_a).T)
    torch.testing.assert_close(dense(one.from_a), dense(one.to_b).T)
    x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(one.propagate, x)


def test_few_neighbors_are_all_kept_and_edges_keep_their_numbers() -> None:
    whole = graph()
    same = sample_neighbors(whole, 9)
    torch.testing.assert_close(dense(same.to_a), dense(whole.to_a))
    one = sample_neighbors(whole, 2)
    is_dropped = torch.zeros(whole.num_edges, dtype=torch.bool)
    is_dropped[one.to_a.edges[0]] = True
    values = one.without(is_dropped).to_a.values
    assert (values == 0).tolist() == [True] + [False] * (len(values) - 1)
