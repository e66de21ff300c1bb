from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.nn import propagation
from ensue.nn.propagation import Adjacency, Norm

# W = [[1, 1, 0], [0, 2, 1]]: the worked example of the specification.
EDGES = (np.array([1, 1, 2, 2]), np.array([1, 2, 2, 3]), np.array([1.0, 1.0, 2.0, 1.0]))
SYMMETRIC = [[0.707107, 0.408248, 0.0], [0.0, 0.666667, 0.577350]]


def random_graph(
    sizes: tuple[int, int] = (40, 30), *, num_edges: int = 300, norm: Norm = "sym"
) -> tuple[Adjacency, Tensor, Any]:
    """Return a graph with two entities of no edge, its weights as a matrix, and its edges."""
    rng = np.random.default_rng(1)
    keys = rng.choice((sizes[0] - 1) * (sizes[1] - 1), num_edges, replace=False)
    a, b = np.divmod(keys, sizes[1] - 1)
    weights = rng.uniform(0.5, 2.0, num_edges)
    dense = torch.zeros(sizes, dtype=torch.float64)
    dense[a, b] = torch.from_numpy(weights)
    edges = (a + 1, b + 1, weights)
    return Adjacency.build(*edges, sizes, norm=norm), dense, edges


def normalized(weights: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return D^-1/2 A D^-1/2 or D^-1 A by blocks, of A = [[0, W], [W^T, 0]]; 0 where D is 0."""
    num_a = len(weights)
    size = sum(weights.shape)
    whole = torch.zeros(size, size, dtype=torch.float64)
    whole[:num_a, num_a:] = weights
    whole[num_a:, :num_a] = weights.T
    degrees = whole.sum(dim=1)
    left = torch.where(degrees > 0, degrees ** (-0.5 if norm == "sym" else -1.0), 0.0)
    whole = left[:, None] * whole * (left if norm == "sym" else torch.ones_like(left))
    return whole[:num_a, num_a:], whole[num_a:, :num_a]


def as_dense(graph: Adjacency) -> tuple[Tensor, Tensor]:
    num_a, num_b = graph.sizes
    eye_a, eye_b = torch.eye(num_a).double(), torch.eye(num_b).double()
    return graph.propagate(eye_b), graph.propagate_back(eye_a)


def test_the_worked_example() -> None:
    graph = Adjacency.build(*EDGES, (2, 3))
    to_a, to_b = as_dense(graph)
    torch.testing.assert_close(to_a, torch.tensor(SYMMETRIC).double(), rtol=0, atol=1e-6)
    assert torch.equal(to_b, to_a.T)
    square = [[0.666667, 0.272166], [0.272166, 0.777778]]
    torch.testing.assert_close(to_a @ to_b, torch.tensor(square).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_products_are_those_of_the_normalized_matrix(norm: Norm) -> None:
    graph, weights, _ = random_graph(norm=norm)
    expected = normalized(weights, norm)
    for found, wanted in zip(as_dense(graph), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    x, plus = torch.randn(30, 7), torch.randn(40, 7)
    found = graph.propagate(x, plus)
    torch.testing.assert_close(found, plus + expected[0].float() @ x)
    assert found.dtype == torch.float32
    assert graph.propagate(x.bfloat16()).dtype == torch.float32
    assert torch.equal(graph.propagate(x.T.contiguous().T), graph.propagate(x))


def test_the_spectrum_is_symmetric_and_at_most_one() -> None:
    to_a, to_b = as_dense(random_graph()[0])
    zero_a, zero_b = torch.zeros(40, 40).double(), torch.zeros(30, 30).double()
    whole = torch.cat([torch.cat([zero_a, to_a], dim=1), torch.cat([to_b, zero_b], dim=1)])
    values = torch.linalg.eigvalsh(whole)
    assert values.max().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(values, -values.flip(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_gradients_are_those_of_finite_differences(norm: Norm) -> None:
    graph, _, _ = random_graph((5, 4), num_edges=7, norm=norm)
    x_a = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    x_b = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(graph.propagate, (x_b, x_a))
    assert torch.autograd.gradcheck(graph.propagate_back, (x_a, x_b))
    assert torch.autograd.gradcheck(lambda a, b: graph.layer_mean(a, b, 3), (x_a, x_b))
    assert torch.autograd.gradgradcheck(lambda a, b: graph.propagate(b.square(), a), (x_a, x_b))


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_the_mean_of_layers(norm: Norm) -> None:
    graph, weights, _ = random_graph(norm=norm)
    to_a, to_b = normalized(weights, norm)
    layers = [(torch.randn(40, 3).double(), torch.randn(30, 3).double())]
    for number in range(4):
        found = graph.layer_mean(*layers[0], number)
        for side in (0, 1):
            expected = torch.stack([layer[side] for layer in layers]).mean(dim=0)
            torch.testing.assert_close(found[side], expected, rtol=0, atol=1e-6)
        a, b = layers[-1]
        layers.append((to_a @ b, to_b @ a))


def test_dropped_edges_keep_the_normalization_of_the_whole() -> None:
    for norm in ("sym", "row"):
        graph, weights, (a, b, _) = random_graph(norm=norm)
        is_dropped = torch.rand(len(a)) < 0.4
        mask = torch.ones_like(weights)
        mask[a[is_dropped] - 1, b[is_dropped] - 1] = 0
        without = graph.without(is_dropped)
        expected = normalized(weights, norm)
        found = as_dense(without)
        torch.testing.assert_close(found[0], expected[0] * mask, rtol=0, atol=1e-6)
        torch.testing.assert_close(found[1], expected[1] * mask.T, rtol=0, atol=1e-6)
        x = torch.randn(30, 2, dtype=torch.float64, requires_grad=True)
        without.propagate(x).square().sum().backward()
        torch.testing.assert_close(
            x.grad, 2 * found[0].T @ (found[0] @ x.detach()), rtol=0, atol=1e-9
        )


def test_threads_and_torch_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _, _ = random_graph()
    x, plus = torch.randn(30, 5), torch.randn(40, 5)
    expected = graph.to_a.multiply(x, plus)
    torch.testing.assert_close(torch.mm(graph.to_a._csr, x) + plus, expected)
    monkeypatch.setattr(propagation, "LEAST", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    again, _, _ = random_graph()
    assert len(again.to_a._cuts) == 1 + 2 * propagation.STRETCHES
    assert torch.equal(again.to_a.multiply(x, plus), expected)


def test_edges_may_come_in_any_order_and_twice() -> None:
    graph, _, (a, b, weights) = random_graph()
    order = np.random.default_rng(3).permutation(len(a))
    moved = Adjacency.build(a[order], b[order], weights[order], (40, 30))
    halves = [np.concatenate([part, part]) for part in (a, b)]
    double = Adjacency.build(*halves, np.concatenate([weights, weights]) / 2, (40, 30))
    for other in (moved, double):
        torch.testing.assert_close(as_dense(other)[0], as_dense(graph)[0], rtol=0, atol=1e-6)
    is_dropped = torch.rand(len(a)) < 0.5
    torch.testing.assert_close(
        as_dense(moved.without(is_dropped[order]))[0], as_dense(graph.without(is_dropped))[0]
    )


def test_a_graph_of_nothing_gives_zeros() -> None:
    none = np.zeros(0, dtype=np.int64)
    graph = Adjacency.build(none, none, none.astype(float), (3, 2))
    assert graph.propagate(torch.ones(2, 4)).tolist() == [[0.0] * 4] * 3
    assert graph.propagate_back(torch.ones(3, 0)).shape == (2, 0)
    assert graph.layer_mean(torch.ones(3, 1), torch.ones(2, 1), 1)[0].tolist() == [[0.5]] * 3


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (([0], [1], [1.0]), "ids must be 1 to 2; got 0 to 0"),
        (([1], [4], [1.0]), "ids must be 1 to 3; got 4 to 4"),
        (([1], [1], [0.0]), "positive and finite; got 0.0"),
        (([1], [1], [np.nan]), "positive and finite"),
        (([1, 2], [1], [1.0]), r"got \(2, 1, 1\)"),
    ],
)
def test_edges_that_cannot_be(edges: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adjacency.build(*map(np.array, edges), (2, 3))


def test_rows_that_do_not_belong_to_the_graph() -> None:
    graph = Adjacency.build(*EDGES, (2, 3))
    with pytest.raises(ValueError, match=r"rows \[3, D\]; got \(2, 4\)"):
        graph.propagate(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"must be \(2, 4\); got \(3, 4\)"):
        graph.propagate(torch.ones(3, 4), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"must be \(2, 4\); got \(2, 5\)"):
        graph.layer_mean(torch.ones(2, 5), torch.ones(3, 4), 2)
