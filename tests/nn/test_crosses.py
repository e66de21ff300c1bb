from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from ensue.nn.crosses import (
    Cross,
    CrossMixture,
    CrossNetwork,
    LowRankCross,
    PairwiseDots,
    VectorCross,
    field_sums,
    sum_of_pairs,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def disturb(module: nn.Module) -> nn.Module:
    """Return the module in float64 with all parameters drawn anew, biases and gates too."""
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize("num_fields", [1, 2, 5])
def test_sum_of_pairs_is_over_all_pairs(num_fields: int) -> None:
    vectors = draw(3, num_fields, 4)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for one, other in combinations(range(num_fields), 2):
        expected = expected + vectors[:, one] * vectors[:, other]
    torch.testing.assert_close(sum_of_pairs(vectors), expected)
    assert torch.autograd.gradcheck(sum_of_pairs, (vectors.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_over_fields_of_vectors_and_squares(dtype: torch.dtype) -> None:
    ours = torch.randn(3, 4, 9, dtype=dtype, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    found = field_sums(ours)
    expected = theirs.sum(dim=1), (theirs**2).sum(dim=1)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)
        weights = torch.randn(3, 9, dtype=dtype)
        for one in (own, other):
            (one * weights).sum().backward(retain_graph=True)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_pairs_do_not_know_an_order() -> None:
    vectors = draw(3, 5, 4)
    moved = sum_of_pairs(vectors[:, [3, 0, 4, 1, 2]])
    torch.testing.assert_close(moved, sum_of_pairs(vectors))


def test_dots_have_the_order_of_the_lower_triangle() -> None:
    vectors = draw(2, 4, 3)
    dots = PairwiseDots(4)
    pairs = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    expected = [[float(row[i] @ row[j]) for i, j in pairs] for row in vectors]
    assert dots.num_pairs == 6
    torch.testing.assert_close(dots(vectors), torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(dots, (vectors.requires_grad_(),))


@pytest.mark.parametrize("num_fields", [0, 1])
def test_one_field_has_no_dots(num_fields: int) -> None:
    assert PairwiseDots(num_fields)(draw(2, num_fields, 3)).shape == (2, 0)


@torch.no_grad()
def test_a_cross_is_its_formula() -> None:
    cross, start, x = disturb(Cross(4)), draw(3, 4), draw(3, 4)
    weight, bias = cross.linear.weight, cross.linear.bias
    for b in range(3):
        for h in range(4):
            inner = sum(float(weight[h, j] * x[b, j]) for j in range(4)) + float(bias[h])
            expected = float(start[b, h]) * inner + float(x[b, h])
            assert float(cross(start, x)[b, h]) == pytest.approx(expected)


def test_a_cross_of_full_rank_is_a_full_cross() -> None:
    full, low = disturb(Cross(4)), LowRankCross(4, 4).double()
    with torch.no_grad():
        low.down.weight.copy_(torch.eye(4))
        low.up.weight.copy_(full.linear.weight)
        low.up.bias.copy_(full.linear.bias)
    start, x = draw(3, 4), draw(3, 4)
    torch.testing.assert_close(low(start, x), full(start, x))


def test_a_mixture_is_its_formula() -> None:
    cross, start, x = disturb(CrossMixture(4, 2, num_experts=3)), draw(5, 4), draw(5, 4)
    downs = cross.down.weight.view(3, 2, 4)
    ups = cross.up.weight.view(4, 3, 2)
    gates = torch.softmax(x @ cross.gate.weight.T, dim=1)
    expected = x.clone()
    for e in range(3):
        inner = torch.tanh(torch.tanh(x @ downs[e].T) @ cross.cores[e].T)
        expected = expected + gates[:, e : e + 1] * start * (inner @ ups[:, e].T + cross.up.bias)
    torch.testing.assert_close(cross(start, x), expected)


@pytest.mark.parametrize(("rank", "num_experts"), [(None, 1), (2, 1), (2, 3)])
def test_gradients_of_a_network(rank: int | None, num_experts: int) -> None:
    network = disturb(CrossNetwork(4, 2, rank=rank, num_experts=num_experts, normalize=True))
    kinds = {(None, 1): Cross, (2, 1): LowRankCross, (2, 3): CrossMixture}
    assert [type(layer) for layer in network.layers] == [kinds[rank, num_experts]] * 2
    assert torch.autograd.gradcheck(network, (draw(3, 4).requires_grad_(),))


def test_two_layers_hold_products_of_three_inputs() -> None:
    """With weights of 1 and no bias, crosses of a single input are polynomials of it."""
    network = CrossNetwork(1, 2).double()
    for layer in network.layers:
        nn.init.ones_(layer.linear.weight)
    x = draw(4, 1)
    torch.testing.assert_close(network(x), x**3 + 2 * x**2 + x)  # x (x^2 + x) + (x^2 + x)


def test_a_cross_with_a_vector() -> None:
    """x0 = (1, 2), w = (.5, -1), b = 0: x0 . w = -1.5, and x1 = -1.5 x0 + x0."""
    network = CrossNetwork(2, 1, kind="vector")
    (layer,) = network.layers
    assert isinstance(layer, VectorCross)
    with torch.no_grad():
        layer.down.weight.copy_(torch.tensor([[0.5, -1.0]]))
    start = torch.tensor([[1.0, 2.0]])
    assert network(start).tolist() == [[-0.5, -1.0]]
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 3.0]))
    assert network(start).tolist() == [[0.5, 2.0]]


def test_the_norm_comes_last() -> None:
    network = CrossNetwork(6, 2, normalize=True).double()
    out = network(draw(3, 6))
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(3, dtype=torch.float64))
    names = {name for name, _ in network.named_parameters()}
    assert {"norm.weight", "norm.bias", "layers.0.linear.bias"} <= names
