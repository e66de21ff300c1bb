from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ensue.losses import path_likelihood
from ensue.losses.path_likelihood import path_loss
from ensue.nn.path_layers import PathLayers, pack_codes, unpack_codes


def make_layers(depth: int, width: int, dim: int = 5) -> PathLayers:
    torch.manual_seed(depth * 100 + width)
    layers = PathLayers(dim, depth=depth, width=width, node_dim=3, hidden_dim=7).double()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layers


def all_paths(depth: int, width: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(width), repeat=depth)))


def with_probabilities(*layers: list[list[float]]) -> PathLayers:
    """Return layers of the given probabilities: of the first choice, and of the second."""
    made = PathLayers(1, depth=2, width=2, node_dim=2, hidden_dim=2).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        made.output[0].bias.copy_(torch.tensor(layers[0][0]).log())
        made.node_embedding[0] = torch.eye(2)
        made.hidden[1].weight[:, 1:] = torch.eye(2)
        made.output[1].weight.copy_(torch.tensor(layers[1]).double().log().T)
    return made


@pytest.mark.parametrize(("depth", "width"), [(1, 5), (2, 4), (3, 3), (4, 3)])
def test_the_paths_have_probability_one(depth, width):
    layers, paths = make_layers(depth, width), all_paths(depth, width)
    queries = torch.randn(2, 5, dtype=torch.float64)
    log_p = layers.log_probs(queries, paths.expand(2, -1, -1))
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(2, dtype=torch.float64))


def test_log_probs_equal_the_networks_written_out():
    layers, path = make_layers(3, 4), [2, 0, 3]
    query = torch.randn(5, dtype=torch.float64)
    expected, inputs = torch.zeros((), dtype=torch.float64), query
    for layer, choice in enumerate(path):
        hidden = layers.hidden[layer](inputs).relu()
        expected = expected + layers.output[layer](hidden).log_softmax(0)[choice]
        if layer < 2:
            inputs = torch.cat([inputs, layers.node_embedding[layer, choice]])
    assert layers.log_probs(query[None], torch.tensor([[path]])).item() == pytest.approx(
        expected.item()
    )


def test_the_worked_beam():
    layers = with_probabilities([[0.55, 0.45]], [[0.5, 0.5], [0.9, 0.1]])
    query = torch.zeros(1, 1, dtype=torch.float64)
    codes, log_p = layers.search(query, 1)
    assert (codes.tolist(), log_p.exp().item()) == ([[0]], pytest.approx(0.275))
    codes, log_p = layers.search(query, 2)
    assert codes[0].tolist()[0] == 2
    assert log_p.exp().tolist()[0] == pytest.approx([0.405, 0.275])


@pytest.mark.parametrize("beam", [16, 20, 64, 100])
def test_a_wide_beam_equals_enumeration(beam):
    layers, paths = make_layers(3, 4), all_paths(3, 4)
    queries = torch.randn(3, 5, dtype=torch.float64)
    codes, log_p = layers.search(queries, beam)
    best = layers.log_probs(queries, paths.expand(3, -1, -1)).topk(min(beam, 64), dim=1)
    torch.testing.assert_close(log_p, best.values)
    assert torch.equal(codes, pack_codes(paths, width=4)[best.indices])


def test_codes_go_there_and_back():
    paths = all_paths(3, 3)
    assert pack_codes(paths, width=3).tolist() == list(range(27))
    assert torch.equal(unpack_codes(torch.arange(27), depth=3, width=3), paths)


def test_the_worked_loss_of_two_paths():
    layers = with_probabilities([[0.2, 0.8]], [[0.5, 0.5], [0.25, 0.75]])
    query = torch.zeros(1, 1, dtype=torch.float64)
    choices = torch.tensor([[[0, 0], [1, 0]]])  # of probability 0.1 and 0.2
    loss = path_loss(layers, query, choices)
    assert loss.item() == pytest.approx(-math.log(0.3))
    assert loss.item() == pytest.approx(1.203973, abs=1e-6)


def test_the_gradient_weighs_paths_by_their_shares():
    layers = with_probabilities([[0.2, 0.8]], [[0.5, 0.5], [0.25, 0.75]])
    query = torch.zeros(1, 1, dtype=torch.float64)
    choices = torch.tensor([[[0, 0], [1, 0]]])
    path_loss(layers, query, choices).backward()
    of_both = layers.output[0].bias.grad.clone()
    expected = torch.zeros(2, dtype=torch.float64)
    for share, path in zip([1 / 3, 2 / 3], choices[0], strict=True):
        layers.zero_grad()
        path_loss(layers, query, path[None, None]).backward()
        expected += share * layers.output[0].bias.grad
    torch.testing.assert_close(of_both, expected)


def test_copies_of_a_path_are_one_path():
    layers, queries = make_layers(3, 4), torch.randn(6, 5, dtype=torch.float64)
    path = torch.randint(4, (6, 1, 3))
    path_loss(layers, queries, path).backward()
    one = {name: parameter.grad.clone() for name, parameter in layers.named_parameters()}
    layers.zero_grad()
    path_loss(layers, queries, path.expand(-1, 3, -1)).backward()
    for name, parameter in layers.named_parameters():
        torch.testing.assert_close(parameter.grad, one[name])


@pytest.mark.parametrize("depth", [1, 3])
def test_finite_differences(depth, monkeypatch):
    monkeypatch.setattr(path_likelihood, "BLOCK_ROWS", 2)
    layers, choices = make_layers(depth, 4), torch.randint(4, (5, 3, depth))
    queries = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    (3 * path_loss(layers, queries, choices)).backward()
    for tensor in (queries, *(p for p in layers.parameters() if p.numel())):
        flat, gradient = tensor.data.view(-1), tensor.grad.flatten()
        for place in {0, len(flat) // 2, int(gradient.abs().argmax())}:
            kept, step, sides = flat[place].item(), 1e-6, []
            for side in (kept + step, kept - step):
                flat[place] = side
                sides.append(3 * path_loss(layers, queries, choices).item())
            flat[place] = kept
            numeric = (sides[0] - sides[1]) / (2 * step)
            assert gradient[place].item() == pytest.approx(numeric, rel=1e-6, abs=1e-7)


def test_blocks_do_not_change_the_loss(monkeypatch):
    layers, choices = make_layers(2, 4), torch.randint(4, (7, 2, 2))
    queries = torch.randn(7, 5, dtype=torch.float64)
    whole = path_loss(layers, queries, choices)
    monkeypatch.setattr(path_likelihood, "BLOCK_ROWS", 3)
    torch.testing.assert_close(path_loss(layers, queries, choices), whole)


def test_no_example_has_loss_0():
    layers = make_layers(2, 4)
    loss = path_loss(layers, torch.zeros(0, 5).double(), torch.zeros(0, 2, 2).long())
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in layers.parameters())


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"got \(2, 5\), \(2, 3\) and D = 2"):
        path_loss(make_layers(2, 4), torch.zeros(2, 5), torch.zeros(2, 3).long())
