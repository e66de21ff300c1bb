from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.data.ranking.schema import TaskKind
from ensue.losses.multitask import row_losses, task_losses

KINDS: list[TaskKind] = ["binary", "regression", "binary"]
LOGITS = torch.tensor([[0.5, 2.0, -1.0], [-2.0, 0.0, 3.0], [1.5, -1.0, 0.25]]).double()
LABELS = torch.tensor([[1.0, 1.5, 0.0], [0.0, torch.nan, torch.nan], [1.0, 2.0, torch.nan]])
WEIGHTS = torch.tensor([[1.0, 2.0, 0.5], [3.0, 1.0, 1.0], [0.5, 0.25, 9.0]])


def plain(logits: Tensor, labels: Tensor, weights: Tensor, kinds: Sequence[str]) -> list[float]:
    """By the definition, in Python's numbers."""
    means = []
    for task, kind in enumerate(kinds):
        total = share = 0.0
        for row in range(len(logits)):
            label, logit = float(labels[row, task]), float(logits[row, task])
            if math.isnan(label):
                continue
            if kind == "regression":
                loss = (logit - label) ** 2
            else:
                p = 1 / (1 + math.exp(-logit))
                loss = -label * math.log(p) - (1 - label) * math.log(1 - p)
            total += float(weights[row, task]) * loss
            share += float(weights[row, task])
        means.append(total / share if share else 0.0)
    return means


def test_means_by_the_definition() -> None:
    found = task_losses(LOGITS, LABELS, WEIGHTS, KINDS)
    assert found.tolist() == pytest.approx(plain(LOGITS, LABELS, WEIGHTS, KINDS), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-8, 8), st.sampled_from([0.0, 1.0, 0.3, math.nan]), st.floats(0, 3)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["binary", "regression"]),
)
def test_any_rows(rows: list[tuple[float, float, float]], kind: TaskKind) -> None:
    logits, labels, weights = torch.tensor(rows, dtype=torch.float64).T[..., None]
    found = task_losses(logits, labels, weights, [kind])
    assert found.tolist() == pytest.approx(plain(logits, labels, weights, [kind]), abs=1e-9)


def test_gradients_by_finite_differences() -> None:
    logits = LOGITS.clone().requires_grad_()

    def total(values: Tensor) -> Tensor:
        return task_losses(values, LABELS, WEIGHTS, KINDS) @ values.new_tensor([1.0, 0.3, 2.0])

    assert torch.autograd.gradcheck(total, (logits,))
    total(logits).backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == LABELS.isnan().tolist()


def test_a_task_without_labels_gives_zero_and_no_gradient() -> None:
    labels = torch.full((2, 2), torch.nan)
    labels[:, 1] = 1.0
    logits = torch.tensor([[math.inf, 0.0], [math.nan, 1.0]], requires_grad=True)
    losses = task_losses(logits, labels, torch.ones(2, 2), ["binary", "regression"])
    assert losses.tolist() == [0.0, 0.5]
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, -1.0], [0.0, 0.0]]


def test_rows_of_weight_zero_count_for_nothing() -> None:
    weights = WEIGHTS.clone()
    weights[0] = 0
    found = task_losses(LOGITS, LABELS, weights, KINDS)
    torch.testing.assert_close(found, task_losses(LOGITS[1:], LABELS[1:], WEIGHTS[1:], KINDS))
    assert float(found[2]) == 0.0


@pytest.mark.parametrize(("logit", "label"), [(80.0, 0.0), (-80.0, 1.0), (1e4, 0.0)])
def test_large_logits_neither_overflow_nor_lose_their_gradient(logit: float, label: float) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = row_losses(logits, torch.tensor([[label]]), ["binary"])
    assert loss.item() == pytest.approx(abs(logit))
    loss.backward()
    assert logits.grad is not None
    assert abs(logits.grad.item()) == pytest.approx(1.0)


def test_losses_of_half_precision_are_float32() -> None:
    logits = torch.zeros(2, 1, dtype=torch.bfloat16)
    labels = torch.tensor([[1.001], [2.003]])
    losses = task_losses(logits, labels, torch.ones(2, 1), ["regression"])
    assert losses.dtype == torch.float32
    assert losses.item() == pytest.approx((1.001**2 + 2.003**2) / 2)


def test_no_rows() -> None:
    none = torch.zeros(0, 3)
    assert task_losses(none, none, none, KINDS).tolist() == [0.0, 0.0, 0.0]


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 3\), \(3, 3\) and 1"):
        row_losses(LOGITS, LABELS, ["binary"])
    with pytest.raises(ValueError, match=r"got \(3, 3\), \(2, 3\) and 3"):
        row_losses(LOGITS, LABELS[:2], KINDS)
