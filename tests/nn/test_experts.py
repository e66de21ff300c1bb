from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ensue.nn.experts import Extraction, Gate, MultiGateExperts, ProgressiveExtraction
from ensue.nn.perceptron import Perceptron, TaskTowers


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def disturb(module: nn.Module) -> nn.Module:
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def test_a_perceptron_is_its_formula() -> None:
    layers, x = disturb(Perceptron(3, [5, 2])), draw(4, 3)
    expected = x
    for layer in layers.layers:
        expected = (expected @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(layers(x), expected)
    assert layers.width == 2
    assert Perceptron(3, []).width == 3
    torch.testing.assert_close(Perceptron(3, [])(x), x)


@torch.no_grad()
def test_a_deep_perceptron_neither_swells_nor_fades() -> None:
    out = Perceptron(64, [256] * 8)(torch.randn(500, 64))
    assert 0.3 < float(out.square().mean()) < 3.0


def test_dropout_acts_in_training_alone() -> None:
    layers, x = Perceptron(3, [400], dropout=0.5), torch.randn(20, 3)
    share = float((layers(x) == 0).float().mean())
    layers.eval()
    kept = float((layers(x) == 0).float().mean())
    assert share == pytest.approx(0.5 + kept / 2, abs=0.05)


def test_towers_share_nothing() -> None:
    towers = disturb(TaskTowers(3, [4], num_tasks=2))
    x, other = draw(5, 3), draw(5, 3)
    first, second = towers([x, x]).unbind(1)
    torch.testing.assert_close(towers([x, other])[:, 0], first)
    assert not torch.allclose(towers([x, other])[:, 1], second)
    towers([x, x])[:, 0].sum().backward()
    of_second = [p.grad for n, p in towers.named_parameters() if ".1." in n and p.grad is not None]
    assert all(bool((grad == 0).all()) for grad in of_second)


def test_a_gate_is_a_softmax_mixture() -> None:
    gate, x, experts = disturb(Gate(3, 4)), draw(5, 3), draw(5, 4, 2)
    weights = torch.softmax(x @ gate.linear.weight.T, dim=1)
    expected = sum(weights[:, e, None] * experts[:, e] for e in range(4))
    torch.testing.assert_close(gate(x, experts), expected)
    assert torch.autograd.gradcheck(gate, (x.requires_grad_(), experts.requires_grad_()))


def test_equal_gates_give_the_mean_of_the_experts() -> None:
    mixture, x = MultiGateExperts(3, [4], num_experts=5, num_tasks=2).double(), draw(6, 3)
    mean = sum(mixture.experts(x)) / 5
    for out in mixture(x):  # gates are equal until they are trained
        torch.testing.assert_close(out, mean)


def test_every_task_has_its_own_gate() -> None:
    mixture, x = disturb(MultiGateExperts(3, [4], num_experts=3, num_tasks=2)), draw(6, 3)
    for gate, out in zip(mixture.gates, mixture(x), strict=True):
        weights = torch.softmax(x @ gate.linear.weight.T, dim=1)
        expected = sum(weights[:, e, None] * one for e, one in enumerate(mixture.experts(x)))
        torch.testing.assert_close(out, expected)
    assert torch.autograd.gradcheck(lambda x: tuple(mixture(x)), (x.requires_grad_(),))


def test_the_order_of_the_experts_does_not_matter() -> None:
    mixture, x = disturb(MultiGateExperts(3, [4], num_experts=3, num_tasks=1)), draw(6, 3)
    before = mixture(x)[0]
    order = [2, 0, 1]
    experts = mixture.experts.experts
    mixture.experts.experts = nn.ModuleList(experts[e] for e in order)
    with torch.no_grad():
        mixture.gates[0].linear.weight.copy_(mixture.gates[0].linear.weight[order])
    torch.testing.assert_close(mixture(x)[0], before)


def test_a_level_of_extraction_is_its_formula() -> None:
    level = disturb(Extraction(3, [4], counts=(2, 1), num_tasks=2, is_last=False))
    inputs, shared_input = [draw(5, 3), draw(5, 3)], draw(5, 3)
    outputs, shared_output = level(inputs, shared_input)

    def mix(gate: Gate, x: Tensor, experts: list[Tensor]) -> Tensor:
        weights = torch.softmax(x @ gate.linear.weight.T, dim=1)
        return sum(weights[:, e, None] * one for e, one in enumerate(experts))

    shared = [expert(shared_input) for expert in level.shared.experts]
    everything = []
    for task, x in enumerate(inputs):
        own = [expert(x) for expert in level.own[task].experts]
        torch.testing.assert_close(outputs[task], mix(level.gates[task], x, own + shared))
        everything += own
    expected = mix(level.shared_gate, shared_input, everything + shared)
    torch.testing.assert_close(shared_output, expected)


@pytest.mark.parametrize("shared", [0, 2])
def test_gradients_of_two_levels_and_no_tensor_that_nothing_reads(shared: int) -> None:
    levels = disturb(ProgressiveExtraction(3, [4], counts=(1, shared), num_tasks=2, num_levels=2))
    x = draw(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(levels(x)), (x,))
    sum(out.square().sum() for out in levels(x)).backward()
    assert [name for name, p in levels.named_parameters() if p.grad is None] == []


def test_without_shared_experts_tasks_are_apart() -> None:
    levels = disturb(ProgressiveExtraction(3, [4], counts=(2, 0), num_tasks=2, num_levels=2))
    levels(draw(5, 3))[0].sum().backward()
    reached = {n for n, p in levels.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached
    assert not any(".own.1." in name or ".gates.1." in name for name in reached)
