from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.nn.graph_convolution import GraphConvolution, GraphConvolutions
from ensue.nn.propagation import Adjacency

# The worked example of the specification: two users, then three items.
EXAMPLE = Adjacency.build(
    np.array([1, 1, 2, 2]), np.array([1, 2, 2, 3]), np.array([1.0, 1.0, 2.0, 1.0]), (2, 3)
)
X = torch.arange(10).view(5, 2) / 10
H = [
    [0.412212, 0.474097],
    [0.891490, 0.948697],
    [0.852073, 0.908560],
    [1.585192, 1.610469],
    [1.427165, 1.484209],
]
NONE = Adjacency.build(*[np.zeros(0, dtype=np.int64)] * 2, np.zeros(0), (2, 3))


def example_block() -> GraphConvolution:
    block = GraphConvolution((2, 2), 2, is_shared=True)
    with torch.no_grad():
        swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        for theta, values in zip(
            block.a.theta, (torch.eye(2), 0.5 * torch.eye(2), swap), strict=True
        ):
            theta.copy_(values)
    return block


def random_block(degree: int = 2, *, seed: int = 0) -> GraphConvolution:
    torch.manual_seed(seed)
    block = GraphConvolution((3, 4), 5, degree=degree).double()
    with torch.no_grad():
        for side in (block.a, block.b):
            side.bias.uniform_(-0.5, 0.5)
    return block


def both(block: GraphConvolution, graph: Adjacency, x: Tensor) -> Tensor:
    return torch.cat(block(graph, x[: graph.sizes[0]], x[graph.sizes[0] :]))


def test_the_worked_example() -> None:
    torch.testing.assert_close(
        both(example_block(), EXAMPLE, X), torch.tensor(H), rtol=0, atol=2e-6
    )


def test_a_laplacian_is_the_same_with_other_weights() -> None:
    torch.manual_seed(0)
    to_a, to_b = EXAMPLE.propagate(torch.eye(3)), EXAMPLE.propagate_back(torch.eye(2))
    whole = torch.zeros(5, 5, dtype=torch.float64)
    whole[:2, 2:], whole[2:, :2] = to_a, to_b
    laplacian = torch.eye(5).double() - whole
    block = GraphConvolution((2, 2), 3, activation="tanh", is_shared=True).double()
    t0, t1, t2 = block.a.theta
    x = X.double()
    powers = (x, laplacian @ x, laplacian @ laplacian @ x)
    weights = (t0 + t1 + t2, -(t1 + 2 * t2), t2)
    expected = torch.tanh(
        sum((p @ w for p, w in zip(powers, weights, strict=True)), torch.zeros(1))
    )
    torch.testing.assert_close(both(block, EXAMPLE, x), expected, rtol=0, atol=1e-12)


def test_sides_of_their_own_are_the_definition() -> None:
    block, x_a, x_b = random_block(), torch.randn(2, 3).double(), torch.randn(3, 4).double()
    w_a = EXAMPLE.propagate(torch.eye(3)).double()
    w_b = EXAMPLE.propagate_back(torch.eye(2)).double()
    for found, side, own, other, to_own, to_other in (
        (block(EXAMPLE, x_a, x_b)[0], block.a, x_a, x_b, w_a, w_b),
        (block(EXAMPLE, x_a, x_b)[1], block.b, x_b, x_a, w_b, w_a),
    ):
        t0, t1, t2 = side.theta
        expected = own @ t0 + to_own @ other @ t1 + to_own @ to_other @ own @ t2 + side.bias
        torch.testing.assert_close(found, expected.relu(), rtol=0, atol=1e-12)


def test_entities_may_change_places() -> None:
    block, x_a, x_b = random_block(), torch.randn(2, 3).double(), torch.randn(3, 4).double()
    order = np.array([2, 0, 1])  # old item order[j] is new item j
    place = np.argsort(order)
    moved = Adjacency.build(
        np.array([1, 1, 2, 2]),
        place[np.array([1, 2, 2, 3]) - 1] + 1,
        np.array([1.0, 1.0, 2.0, 1.0]),
        (2, 3),
    )
    h_a, h_b = block(EXAMPLE, x_a, x_b)
    moved_a, moved_b = block(moved, x_a, x_b[order])
    torch.testing.assert_close(moved_a, h_a)
    torch.testing.assert_close(moved_b, h_b[order])


def test_without_edges_or_without_order_it_is_a_layer_on_the_features() -> None:
    plain, block = random_block(0), random_block(2)
    block.load_state_dict(plain.state_dict(), strict=False)
    x_a, x_b = torch.randn(2, 3).double(), torch.randn(3, 4).double()
    expected = plain(EXAMPLE, x_a, x_b)
    for found in (plain(NONE, x_a, x_b), block(NONE, x_a, x_b)):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with torch.no_grad():
        for side in (block.a, block.b):
            side.theta[1].zero_()
            side.theta[2].zero_()
    assert torch.equal(block(EXAMPLE, x_a, x_b)[1], expected[1])


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_only_the_second_order_joins_users_of_one_item(degree: int) -> None:
    block = GraphConvolution((3, 4), 5, degree=degree, activation="identity")
    x_a, x_b = torch.randn(2, 3), torch.randn(3, 4)
    before, _ = block(EXAMPLE, x_a, x_b)
    after, _ = block(EXAMPLE, torch.stack([x_a[0] + 1, x_a[1]]), x_b)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1]) == (degree < 2)


def test_gradients_are_those_of_finite_differences() -> None:
    block = random_block()
    x_a, x_b = torch.randn(2, 3).double(), torch.randn(3, 4).double()
    parameters = [p.detach().clone().requires_grad_() for p in block.parameters()]
    names = [name for name, _ in block.named_parameters()]

    def run(a: Tensor, b: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        values = dict(zip(names, given, strict=True))
        return torch.func.functional_call(block, values, (EXAMPLE, a, b))

    inputs = (x_a.requires_grad_(), x_b.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(run, inputs)


def test_layers_one_on_the_other() -> None:
    stack = GraphConvolutions((3, 4), 5, num_layers=2)
    x_a, x_b = torch.randn(2, 3), torch.randn(3, 4)
    first = stack[0](EXAMPLE, x_a, x_b)
    assert torch.equal(stack(EXAMPLE, x_a, x_b)[1], stack[1](EXAMPLE, *first)[1])
    assert GraphConvolutions((3, 4), 5, num_layers=0)(EXAMPLE, x_a, x_b)[0] is x_a
    shared = GraphConvolutions((3, 3), 5, num_layers=2, is_shared=True)
    assert len(list(shared.parameters())) == 2 * (3 + 1)


def test_blocks_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="degree of 0, 1 or 2; got 3"):
        GraphConvolution((2, 2), 2, degree=3)
    with pytest.raises(ValueError, match=r"inputs of one width; got \(2, 3\)"):
        GraphConvolution((2, 3), 2, is_shared=True)
