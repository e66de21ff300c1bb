"""Distillation in the pass of the softmax over the catalogue, against logits of the whole batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.losses.distillation import distillation_loss, full_softmax_distillation_loss
from ensue.losses.full_softmax import full_softmax_loss
from ensue.losses.soft_targets import TopKTarget, topk_target
from tests.losses.test_full_softmax import BLOCKS, blocks, problem, set_blocks  # noqa: F401

SETTINGS = [(0.5, 1.0, 1.0), (0.3, 1.0, 2.0), (0.9, 4.0, 16.0), (1.0, 3.0, 1.0), (0.0, 2.0, 1.0)]


def soft_target(given: dict[str, Tensor], k: int) -> TopKTarget:
    torch.manual_seed(1)
    num_items = len(given["table"]) - 1
    logits = 3 * torch.randn(len(given["queries"]), num_items, dtype=torch.float64)
    target = topk_target(logits, min(k, num_items))
    return TopKTarget(target.ids + 1, target.values, target.remainder)


def names(teacher_weight: float, temperature: float, scale: float) -> dict[str, float]:
    return {"teacher_weight": teacher_weight, "temperature": temperature, "scale": scale}


def dense_loss(given: dict[str, Tensor], target: TopKTarget, **options: float) -> Tensor:
    logits = given["queries"] @ given["table"][1:].T + given["bias"][1:]
    dense = TopKTarget(target.ids - 1, target.values, target.remainder).dense(logits.shape[1])
    losses = distillation_loss(logits, given["targets"] - 1, dense, **options)
    return (given["weights"] * losses).sum()


def fused_loss(given: dict[str, Tensor], target: TopKTarget, **options: float) -> Tensor:
    tensors = {name: given[name] for name in ("bias", "weights")}
    return full_softmax_distillation_loss(
        given["queries"], given["table"], given["targets"], target, **tensors, **options
    )


@pytest.mark.parametrize("given_settings", SETTINGS)
def test_value_and_gradient_are_those_of_the_dense_form(
    blocks: str,  # noqa: F811
    given_settings: tuple[float, float, float],
) -> None:
    given = problem()
    target, options = soft_target(given, 5), names(*given_settings)
    results = []
    for loss in (fused_loss, dense_loss):
        value = 3.0 * loss(given, target, **options)
        inputs = [given[name] for name in ("queries", "table", "bias")]
        results.append((value, *torch.autograd.grad(value, inputs)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_finite_differences(blocks: str, temperature: float) -> None:  # noqa: F811
    given = problem(num_positions=6, num_items=11, dim=3)
    target = soft_target(given, 3)

    def loss(queries: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        changed = {**given, "queries": queries, "table": table, "bias": bias}
        return fused_loss(changed, target, **names(0.6, temperature, 1.5))

    assert torch.autograd.gradcheck(loss, (given["queries"], given["table"], given["bias"]))


@settings(deadline=None, max_examples=30)
@given(
    num_positions=st.integers(0, 30),
    num_items=st.integers(1, 60),
    k=st.integers(1, 8),
    kind=st.sampled_from(BLOCKS),
    chosen=st.sampled_from(SETTINGS),
)
def test_any_size_in_any_blocks(
    num_positions: int, num_items: int, k: int, kind: str, chosen: tuple[float, float, float]
) -> None:
    given = problem(num_positions, num_items)
    target = soft_target(given, k)
    with pytest.MonkeyPatch.context() as patch:
        set_blocks(patch, kind)
        value = fused_loss(given, target, **names(*chosen))
    expected = dense_loss(given, target, **names(*chosen))
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


def test_without_the_teacher_it_is_the_hard_loss(blocks: str) -> None:  # noqa: F811
    given = problem()
    hard = full_softmax_loss(given["queries"], given["table"], given["targets"])
    ours = full_softmax_distillation_loss(
        given["queries"], given["table"], given["targets"], soft_target(given, 4), **names(0, 2, 1)
    )
    torch.testing.assert_close(ours, hard, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_extreme_logits_in_float32(blocks: str, temperature: float) -> None:  # noqa: F811
    queries = torch.tensor([[400.0], [-400.0]], requires_grad=True)
    table = torch.tensor([[0.0], [1.0], [-1.0], [0.5]], requires_grad=True)
    target = TopKTarget(torch.tensor([[2], [1]]), torch.ones(2, 1), torch.zeros(2))
    loss = full_softmax_distillation_loss(
        queries, table, torch.tensor([1, 1]), target, **names(0.5, temperature, 1.0)
    )
    loss.backward()
    # Hard: 0 and 800; soft, over the temperature: 800 and 800.
    assert loss.item() == pytest.approx(400.0 + 800.0 / temperature)
    assert queries.grad.isfinite().all()
    assert table.grad.isfinite().all()


def test_padding_gets_no_gradient(blocks: str) -> None:  # noqa: F811
    table = torch.zeros(4, 2)
    table[0] = 1e6
    table.requires_grad_()
    target = TopKTarget(torch.tensor([[2]]), torch.tensor([[0.5]]), torch.tensor([0.25]))
    loss = full_softmax_distillation_loss(
        torch.ones(1, 2), table, torch.tensor([2]), target, **names(0.5, 2.0, 1.0)
    )
    loss.backward()
    assert loss.item() == pytest.approx(1.0986123)
    assert table.grad[0].tolist() == [0.0, 0.0]


def test_autocast_is_near_float32(blocks: str) -> None:  # noqa: F811
    given = {
        name: value.detach().float() if value.is_floating_point() else value
        for name, value in problem(50).items()
    }
    target = soft_target(given, 5)
    gradients, values = [], []
    for enabled in (False, True):
        table = given["table"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = fused_loss({**given, "table": table}, target, **names(0.7, 2.0, 4.0))
        value.backward()
        values.append(value.item())
        gradients.append(table.grad)
    assert values[1] == pytest.approx(values[0], rel=0.02)
    assert (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 0.02


def test_bad_arguments() -> None:
    given = problem()
    target = soft_target(given, 2)
    inputs = given["queries"], given["table"], given["targets"]
    with pytest.raises(ValueError, match="full_softmax_distillation_loss needs temperature > 0"):
        full_softmax_distillation_loss(*inputs, target, **names(0.5, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"one target for each query, \[23\]; got \(5,\)"):
        full_softmax_distillation_loss(*inputs[:2], inputs[2][:5], target, **names(0.5, 1.0, 1.0))
    short = TopKTarget(target.ids[:5], target.values[:5], target.remainder[:5])
    with pytest.raises(ValueError, match=r"got \(5, 2\), \(5, 2\), \(5,\) and \(23,\)"):
        full_softmax_distillation_loss(*inputs, short, **names(0.5, 1.0, 1.0))
