"""Soft targets: worked numbers, what each keeps of the teacher, and what it must not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.losses.soft_targets import (
    class_mean_table,
    permuted_target,
    pt_shared_target,
    pt_target,
    pt_topk_target,
    rel_table,
    sim_table,
    teacher_target,
    topk_target,
    uniform_target,
)

FIVE = torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04]], dtype=torch.float64).log()
ROWS = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]], dtype=torch.float64)
SUPER = torch.tensor([0, 1, 0, 2, 1, 2])
ZERO = torch.tensor([0])

Target = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


# (teacher logits [B, 6], labels [B], output weights [6, D], super-classes [6]) -> [B, 6]
TARGETS: dict[str, Target] = {
    "kd": lambda v, t, w, c: teacher_target(v, temperature=2.0),
    "kd-pt": lambda v, t, w, c: pt_target(v, t, pt_temperature=2.0),
    "kd-sim": lambda v, t, w, c: sim_table(w, power=0.5)[t],
    "kd-rel": lambda v, t, w, c: rel_table(c, b1=0.5, b2=0.3, b3=0.05)[t],
    "kd-pt+sim": lambda v, t, w, c: pt_shared_target(v, t, sim_table(w)),
    "kd-pt+rel": lambda v, t, w, c: pt_shared_target(v, t, rel_table(c, b1=0.5, b2=0.3, b3=0.05)),
    "kd-topk": lambda v, t, w, c: topk_target(v, 2, temperature=2.0).dense(6),
    "kd-topk, label": lambda v, t, w, c: topk_target(v, 2, labels=t).dense(6),
    "kd-perm": lambda v, t, w, c: permuted_target(v, t, generator=generator()),
    "kd-classavg": lambda v, t, w, c: class_mean_table(v, t, temperature=2.0)[t],
    "ls": lambda v, t, w, c: uniform_target(v),
}


def problem(seed: int, num_examples: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_examples, 6, generator=draws, dtype=torch.float64)
    weights = torch.randn(6, 4, generator=draws, dtype=torch.float64)
    return logits, torch.randint(0, 6, (num_examples,), generator=draws), weights, SUPER


def test_worked_numbers_of_topk_and_pt() -> None:
    assert topk_target(FIVE, 2).dense(5)[0].tolist() == pytest.approx([0.6, 0.2, *[0.2 / 3] * 3])
    assert pt_target(FIVE, ZERO)[0].tolist() == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1])


def test_worked_numbers_of_sim() -> None:
    for temperature, expected in (
        (1.0, [0.511753, 0.418988, 0.069258]),
        (0.5, [0.592194, 0.396960, 0.010846]),
    ):
        table = sim_table(ROWS, sim_temperature=temperature, center_rows=False)
        assert table[0].tolist() == pytest.approx(expected, abs=1e-6)
    logits = torch.tensor([[0.8, 0.15, 0.05]], dtype=torch.float64).log()
    shared = pt_shared_target(logits, ZERO, table)
    assert shared[0].tolist() == pytest.approx([0.8, 0.194681, 0.005319], abs=1e-6)


def test_the_power_flattens_cosines_and_keeps_their_sign() -> None:
    table = sim_table(ROWS, sim_temperature=1.0, power=0.5, center_rows=False)
    expected = torch.tensor([1.0, 0.8**0.5, -1.0]).softmax(dim=0)
    assert table[0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_centered_rows_do_not_notice_a_common_vector() -> None:
    moved = ROWS + torch.tensor([5.0, -3.0])
    torch.testing.assert_close(sim_table(moved), sim_table(ROWS))
    assert not torch.allclose(sim_table(moved, center_rows=False), sim_table(ROWS))


def test_rel_by_hand() -> None:
    table = rel_table(torch.tensor([0, 0, 1, 1]), b1=0.5, b2=0.3, b3=0.1)
    assert table[2].tolist() == pytest.approx([0.1, 0.1, 0.5, 0.3])
    scaled = rel_table(torch.tensor([0, 0, 0, 1]), b1=0.5, b2=0.3, b3=0.1, scale_rows=True)
    assert scaled[0].tolist() == pytest.approx([0.5 / 1.2, 0.25, 0.25, 0.1 / 1.2])
    assert scaled[3].tolist() == pytest.approx([0.125, 0.125, 0.125, 0.625])


def test_class_means_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]]).log()
    table = class_mean_table(logits, torch.tensor([0, 0, 2]))
    assert table[0].tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert table[1].tolist() == pytest.approx([1 / 3] * 3)  # no example
    assert table[2].tolist() == pytest.approx([0.1, 0.1, 0.8])


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), offset=st.floats(-50, 50))
def test_every_target_is_a_distribution_without_gradient(
    name: str, seed: int, offset: float
) -> None:
    logits, labels, weights, superclasses = problem(seed)
    logits.requires_grad_()
    weights.requires_grad_()
    target = TARGETS[name](logits, labels, weights, superclasses)
    assert not target.requires_grad
    assert target.min() >= 0
    assert target.sum(dim=1).tolist() == pytest.approx([1.0] * len(labels), abs=1e-6)
    moved = TARGETS[name](logits + offset, labels, weights, superclasses)
    torch.testing.assert_close(moved, target, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "kd-perm"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_renaming_classes_renames_the_target(name: str, seed: int) -> None:
    logits, labels, weights, superclasses = problem(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    target = TARGETS[name](logits, labels, weights, superclasses)
    renamed = TARGETS[name](
        logits[:, order], order.argsort()[labels], weights[order], superclasses[order]
    )
    torch.testing.assert_close(renamed, target[:, order])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_what_keeps_the_probability_of_the_label(seed: int) -> None:
    logits, labels, weights, superclasses = problem(seed)
    label = labels[:, None]
    p_t = teacher_target(logits).gather(1, label)
    for table in (sim_table(weights), rel_table(superclasses, b1=0.5, b2=0.3, b3=0.05)):
        torch.testing.assert_close(pt_shared_target(logits, labels, table).gather(1, label), p_t)
    torch.testing.assert_close(pt_target(logits, labels).gather(1, label), p_t)
    permuted = permuted_target(logits, labels, generator=generator())
    assert torch.equal(permuted.gather(1, label), p_t)
    assert torch.equal(permuted.sort(dim=1).values, teacher_target(logits).sort(dim=1).values)


def test_every_permutation_of_the_wrong_classes_is_as_likely() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log().expand(60_000, 4)
    labels = torch.full((60_000,), 1)
    places = permuted_target(logits, labels, generator=generator())[:, [0, 2, 3]]
    counts = torch.unique(places.round(decimals=6), dim=0, return_counts=True)[1]
    assert len(counts) == math.factorial(3)
    assert (counts - 10_000).abs().max() < 5 * 10_000**0.5


@pytest.mark.parametrize("num_classes", [1, 2, 7, 500])
def test_all_classes_kept_is_the_teacher(num_classes: int) -> None:
    logits = torch.randn(4, num_classes, dtype=torch.float64)
    kept = topk_target(logits, num_classes, temperature=3.0)
    expected = teacher_target(logits, temperature=3.0)
    torch.testing.assert_close(kept.dense(num_classes), expected, rtol=1e-12, atol=1e-15)
    assert kept.remainder.tolist() == [0.0] * 4


def test_one_class_kept_is_the_best_and_an_even_rest() -> None:
    target = topk_target(FIVE.flip(1), 1)
    assert target.ids.tolist() == [[4]]
    assert target.dense(5)[0].tolist() == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.6])


def test_a_label_below_the_best_takes_the_last_place() -> None:
    labels = torch.tensor([4, 0])
    target = topk_target(FIVE.expand(2, 5), 2, labels=labels)
    assert target.ids.tolist() == [[0, 4], [0, 1]]
    assert target.values.flatten().tolist() == pytest.approx([0.6, 0.04, 0.6, 0.2])
    assert target.remainder.tolist() == pytest.approx([0.12, 0.2 / 3])


def test_pt_in_the_compact_form() -> None:
    logits, labels, _, _ = problem(3)
    compact = pt_topk_target(logits, labels)
    assert torch.equal(compact.dense(6), pt_target(logits, labels))
    assert compact.ids.shape == (len(labels), 1)


def test_half_precision_logits_become_float32() -> None:
    logits = torch.randn(3, 4)
    target = teacher_target(logits.bfloat16())
    assert target.dtype == torch.float32
    torch.testing.assert_close(target, logits.bfloat16().float().softmax(dim=1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: topk_target(FIVE, 6), r"1 <= k <= 5 classes; got 6"),
        (lambda: topk_target(FIVE, 0), r"1 <= k <= 5 classes; got 0"),
        (lambda: topk_target(FIVE, 1, temperature=0), "temperature > 0; got 0"),
        (lambda: teacher_target(FIVE, temperature=-1), "temperature > 0; got -1"),
        (lambda: pt_target(FIVE, ZERO, pt_temperature=0), "pt_temperature > 0; got 0"),
        (lambda: pt_target(FIVE, torch.tensor([5])), r"labels in 0\.\.4; got 5\.\.5"),
        (lambda: pt_target(FIVE, torch.tensor([0, 0])), r"got \(1, 5\) and \(2,\)"),
        (lambda: sim_table(ROWS, sim_temperature=0), "sim_temperature > 0; got 0"),
        (lambda: sim_table(ROWS, power=1.5), r"0 < power <= 1; got 1\.5"),
        (lambda: rel_table(SUPER, b1=0.2, b2=0.3, b3=0.1), r"b1 > b2 > b3 >= 0; got 0\.2, 0\.3"),
        (lambda: rel_table(SUPER, b1=0.5, b2=0.3, b3=0.1), r"got 1\.2 to 1\.2\. Pass scale_rows"),
        (
            lambda: pt_shared_target(FIVE, ZERO, torch.eye(5)),
            "more than 0 outside its diagonal in each row",
        ),
    ],
)
def test_bad_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
