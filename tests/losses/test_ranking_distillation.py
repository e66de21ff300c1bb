from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from ensue.losses.ranking_distillation import (
    discrepancy_weights,
    distillation_of_items,
    estimated_ranks,
    geometric_weights,
    hybrid_weights,
    position_weights,
    ranking_distillation_loss,
    reciprocal_weights,
    uniform_weights,
)

RANKS = torch.tensor([[1.0, 5.0, 156.0]], dtype=torch.float64)
LOGITS = [2.0, 0.0, -1.0]


def close(found: Tensor, expected: list[float], tolerance: float = 5e-7) -> None:
    assert found.flatten().tolist() == pytest.approx(expected, abs=tolerance)


def test_position_weights_worked_by_hand() -> None:
    close(position_weights(3, 1.0), [0.665241, 0.244728, 0.090031])
    ten = position_weights(10, 1.0)
    expected = [0.632149, 0.232555, 0.085552, 0.031473, 0.011578]
    close(ten, [*expected, 0.004259, 0.001567, 0.000576, 0.000212, 0.000078])
    flat = position_weights(10, 10.0)
    close(flat[[0, -1]], [0.150545, 0.061207])


def test_position_weights_at_their_limits() -> None:
    close(position_weights(5, 1e-3), [1, 0, 0, 0, 0])
    close(position_weights(5, 1e9), uniform_weights(5).tolist())


@given(st.integers(1, 50), st.floats(0.5, 100))
def test_position_weights_fall_and_sum_to_one(num_items: int, scale: float) -> None:
    weights = position_weights(num_items, scale)
    assert weights.sum().item() == pytest.approx(1)
    assert bool((weights.diff() < 0).all())


def test_other_static_weights() -> None:
    close(reciprocal_weights(3), [6 / 11, 3 / 11, 2 / 11])
    close(geometric_weights(3, 0.25), [0.25 * 0.75, 0.25 * 0.75**2, 0.25 * 0.75**3])
    assert uniform_weights(0).tolist() == []


def test_discrepancy_and_hybrid_worked_by_hand() -> None:
    dynamic = discrepancy_weights(RANKS, 0.1)
    close(dynamic, [0, 0.291313, 1.0])
    static = position_weights(3, 1.0)
    close(hybrid_weights(static, dynamic, normalize=False), [0, 0.071292, 0.090031])
    close(hybrid_weights(static, dynamic, normalize=True), [0, 0.441924, 0.558076])


@given(arrays(np.float64, (3, 4), elements=st.integers(1, 200).map(float)), st.floats(0.01, 1))
def test_discrepancy_is_zero_where_the_student_ranks_as_high(
    ranks: np.ndarray, scale: float
) -> None:
    weights = discrepancy_weights(torch.from_numpy(ranks), scale)
    assert bool(((weights >= 0) & (weights <= 1)).all())
    np.testing.assert_array_equal(weights.numpy() == 0, ranks <= np.arange(1, 5))
    total = hybrid_weights(position_weights(4, 1.0), weights, normalize=True).sum(dim=1)
    expected = (ranks > np.arange(1, 5)).any(axis=1).astype(float)
    np.testing.assert_allclose(total.numpy(), expected)  # 1, or 0 where nothing disagrees: no NaN


def test_losses_and_gradients_worked_by_hand() -> None:
    static, dynamic = position_weights(3, 1.0), discrepancy_weights(RANKS, 0.1)
    raw = hybrid_weights(static, dynamic, normalize=False)
    for weights, loss, gradient in [
        (static, 0.3723042635, [-0.079299, -0.122364, -0.065818]),
        (raw, 0.1676498911, [0, -0.035646, -0.065818]),
        (hybrid_weights(static, dynamic, normalize=True), 1.0392183703, None),
    ]:
        logits = torch.tensor([LOGITS], dtype=torch.float64, requires_grad=True)
        found = ranking_distillation_loss(logits, weights)
        assert found.item() == pytest.approx(loss, abs=1e-9)
        found.sum().backward()
        assert bool((logits.grad <= 0).all())
        if gradient is not None:
            close(logits.grad, gradient)


def test_weights_have_no_gradient() -> None:
    weights = torch.ones(3, requires_grad=True)
    logits = torch.zeros(2, 3, requires_grad=True)
    ranking_distillation_loss(logits, weights).sum().backward()
    assert weights.grad is None
    torch.testing.assert_close(logits.grad, torch.full((2, 3), -0.5))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = ranking_distillation_loss(logits, torch.tensor([0.5, 0.5]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(5e3)
    assert logits.grad.tolist() == [[-0.5, 0]]


@pytest.mark.parametrize(("above", "rank"), [(7, 36), (0, 1), (20, 101)])
def test_estimated_rank_worked_by_hand(above: int, rank: int) -> None:
    num_above = torch.tensor([[above]])
    found = estimated_ranks(num_above, num_probes=20, num_others=torch.tensor(101))
    assert found.item() == rank


@pytest.mark.parametrize("num_items", [30, 50, 99])  # 1 / 49 * 49 is less than 1
def test_probing_every_other_item_gives_the_exact_rank(num_items: int) -> None:
    scores = torch.randperm(num_items, generator=torch.Generator().manual_seed(0))
    for item in range(num_items):
        others = torch.cat([scores[:item], scores[item + 1 :]])
        above = (others > scores[item]).sum()[None, None]
        rank = estimated_ranks(
            above, num_probes=num_items - 1, num_others=torch.tensor(num_items)
        ).item()
        assert rank == (scores >= scores[item]).sum()


def test_the_estimate_is_unbiased_up_to_the_floor() -> None:
    generator = torch.Generator().manual_seed(1)
    num_items, num_probes, rank, draws = 501, 20, 101, 4000
    probes = torch.rand(draws, num_items - 1, generator=generator).argsort(dim=1)[:, :num_probes]
    above = (probes < rank - 1).sum(dim=1, keepdim=True)  # the first rank - 1 others are better
    share = (rank - 1) / (num_items - 1)
    error = (share * (1 - share) / num_probes / draws) ** 0.5
    assert abs(above.double().mean().item() / num_probes - share) < 3 * error
    ranks = estimated_ranks(above, num_probes=num_probes, num_others=torch.tensor(num_items))
    assert abs(ranks.mean().item() - rank) < 3 * error * num_items + 1


def test_no_probe_means_the_first_rank() -> None:
    num_above = torch.zeros(2, 3)
    found = estimated_ranks(num_above, num_probes=torch.zeros(2, 1), num_others=torch.tensor(9))
    assert found.tolist() == [[1] * 3] * 2


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="scale > 0; got 0"):
        position_weights(3, 0)
    with pytest.raises(ValueError, match="scale > 0; got -1"):
        discrepancy_weights(RANKS, -1)
    with pytest.raises(ValueError, match="0 < share < 1; got 1"):
        geometric_weights(3, 1.0)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(4,\)"):
        ranking_distillation_loss(torch.zeros(2, 3), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and not
@pytest.mark.parametrize("has_bias", [False, True])
def test_items_of_a_table_by_hand(dtype: torch.dtype, has_bias: bool) -> None:
    """Logits 0.5 and -1, then 2 and padding; gradients weight * (sigmoid - 1) / 2 queries."""
    table = torch.tensor([[9.0], [1.0], [-2.0], [4.0]], dtype=dtype, requires_grad=True)
    queries = torch.tensor([[0.5], [0.5]], dtype=dtype, requires_grad=True)
    bias = torch.tensor([7.0, 0.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    items = torch.tensor([[1, 2], [3, 0]])
    weights = torch.tensor([[0.25, 0.0], [0.5, 3.0]], dtype=torch.float64)
    loss = distillation_of_items(queries, table, bias if has_bias else None, items, weights)
    expected = 0.25 * math.log1p(math.exp(-0.5)) + 0.5 * math.log1p(math.exp(-2))
    assert loss.item() == pytest.approx(expected / 2, rel=1e-6)
    (3 * loss).backward()
    first, second = (-3 / 2 * w / (1 + math.exp(z)) for w, z in ((0.25, 0.5), (0.5, 2.0)))
    to_table = torch.tensor([[0.0], [first * 0.5], [0.0], [second * 0.5]], dtype=dtype)
    torch.testing.assert_close(table.grad, to_table)
    to_queries = torch.tensor([[first * 1.0], [second * 4.0]], dtype=dtype)
    torch.testing.assert_close(queries.grad, to_queries)
    if has_bias:
        torch.testing.assert_close(bias.grad, torch.tensor([0, first, 0, second], dtype=dtype))


def test_weights_by_position_are_those_of_every_query() -> None:
    table = torch.randn(9, 3, requires_grad=True)
    queries, items = torch.randn(4, 3), torch.randint(1, 9, (4, 5))
    weights = position_weights(5, scale=2.0)
    loss = distillation_of_items(queries, table, None, items, weights)
    expected = ranking_distillation_loss((queries[:, None] * table[items]).sum(dim=2), weights)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
