from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensue.losses import contrastive
from ensue.losses.contrastive import (
    batch_softmax_loss,
    nt_xent,
    spread_out_square,
    view_contrast,
)

Z = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
OTHER = torch.tensor([[0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
DIAGONAL = torch.tensor([[0, 1], [0, 1]])


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def by_definition(
    queries: Tensor,
    candidates: Tensor,
    pairs: list[tuple[int, int]],
    excluded: list[tuple[int, int]],
    temperature: float,
    log_q: Tensor | None,
) -> Tensor:
    """One pair after the other, one candidate after the other."""
    losses = []
    for row, column in pairs:
        logits = [
            queries[row] @ candidates[c] / temperature - (0.0 if log_q is None else log_q[c])
            for c in range(len(candidates))
        ]
        positives = {c for r, c in pairs if r == row}
        banned = positives | {c for r, c in excluded if r == row}
        total = logits[column].exp()
        for c in range(len(candidates)):
            if c not in banned:
                total = total + logits[c].exp()
        losses.append(total.log() - logits[column])
    return torch.stack(losses).mean()


def test_worked_numbers_of_two_views() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    assert view_contrast(eye, eye, temperature=0.5).item() == pytest.approx(
        math.log(1 + math.exp(-2)), abs=1e-12
    )
    assert view_contrast(eye, eye, temperature=0.5).item() == pytest.approx(0.126928, abs=1e-6)
    assert view_contrast(Z, OTHER, temperature=0.5).item() == pytest.approx(0.524897, abs=1e-6)
    assert view_contrast(Z, Z, temperature=0.5).item() == pytest.approx(0.371101, abs=1e-6)
    assert spread_out_square(Z).item() == pytest.approx(0.36, abs=1e-12)


def test_worked_gradient_of_two_views() -> None:
    """dL/dS, read off through the gradient of second views that are the axes: S is `first`."""
    similarities = torch.tensor([[0.8, 0.0], [0.96, 0.8]], dtype=torch.float64, requires_grad=True)
    eye = torch.eye(2, dtype=torch.float64)
    loss = view_contrast(similarities, eye, temperature=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.524897, abs=1e-6)
    expected = [[-0.167982, 0.167982], [0.579324, -0.579324]]
    np.testing.assert_allclose(similarities.grad, expected, atol=1e-6)


def test_worked_numbers_of_the_correction() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)  # queries . axes are the logits
    log_q = torch.tensor([0.5, 0.125], dtype=torch.float64).log()

    def loss(row: int, log_q: Tensor | None) -> float:
        pair = torch.tensor([[0], [row]])
        own = logits[row : row + 1]
        return batch_softmax_loss(own, eye, pair, temperature=1.0, log_q=log_q).item()

    plain, corrected = [loss(row, None) for row in (0, 1)], [loss(row, log_q) for row in (0, 1)]
    np.testing.assert_allclose(plain, [0.313262, 0.048587], atol=1e-6)
    np.testing.assert_allclose(corrected, [0.904832, 0.012370], atol=1e-6)
    np.testing.assert_allclose([loss(row, log_q + 7.0) for row in (0, 1)], corrected, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_queries, num_candidates = int(rng.integers(1, 6)), int(rng.integers(1, 8))
    cells = [(r, c) for r in range(num_queries) for c in range(num_candidates)]
    chosen = sorted(rng.permutation(len(cells))[: rng.integers(1, len(cells) + 1)])
    pairs = [cells[n] for n in chosen if rng.random() < 0.6] or [cells[chosen[0]]]
    excluded = [cells[n] for n in chosen if rng.random() < 0.4]
    queries = unit(num_queries, 3, seed=seed).requires_grad_()
    candidates = unit(num_candidates, 3, seed=seed + 1).requires_grad_()
    log_q = torch.from_numpy(rng.normal(size=num_candidates))
    expected = by_definition(queries, candidates, pairs, excluded, 0.3, log_q)
    gradients = torch.autograd.grad(expected, (queries, candidates))
    found = batch_softmax_loss(
        queries,
        candidates,
        torch.tensor(pairs).T,
        temperature=0.3,
        excluded=torch.tensor(excluded, dtype=torch.long).view(-1, 2).T,
        log_q=log_q,
    )
    found_gradients = torch.autograd.grad(found, (queries, candidates))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for own, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_equal_the_whole(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    queries = unit(70, 8).to(dtype).requires_grad_()
    candidates = unit(90, 8, seed=1).to(dtype).requires_grad_()
    rows = torch.arange(70).repeat_interleave(2)
    pairs = torch.stack([rows, torch.arange(140) % 90])
    excluded = torch.stack([torch.arange(70), (torch.arange(70) * 7) % 90])
    results = []
    for size in (1 << 30, 1):  # one block; blocks of 16 queries
        monkeypatch.setitem(contrastive.BLOCK_BYTES, "cpu", size)
        loss = batch_softmax_loss(queries, candidates, pairs, temperature=0.1, excluded=excluded)
        results.append((loss, *torch.autograd.grad(loss, (queries, candidates))))
    for whole, in_blocks in zip(*results, strict=True):
        torch.testing.assert_close(in_blocks, whole, rtol=1e-5, atol=1e-7)


def test_nt_xent_is_the_mean_over_both_views_of_all() -> None:
    first, second = unit(5, 3).requires_grad_(), unit(5, 3, seed=1).requires_grad_()
    views = torch.cat([first, second])
    logits = (views @ views.T / 0.3).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
    targets = torch.tensor([5, 6, 7, 8, 9, 0, 1, 2, 3, 4])
    expected = F.cross_entropy(logits, targets)
    found = nt_xent(first, second, temperature=0.3)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    inputs = (first, second)
    slopes = (torch.autograd.grad(loss, inputs) for loss in (found, expected))
    for own, other in zip(*slopes, strict=True):
        assert torch.allclose(own, other, atol=1e-12)
    with pytest.raises(ValueError, match=r"nt_xent needs two views .* got \(5, 3\) and \(4, 3\)"):
        nt_xent(first, second[:4], temperature=0.3)


def test_gradient_is_the_error_of_the_softmax() -> None:
    """dL/dS = (P - I) / (M tau) with P the softmax of rows, through free second views."""
    first, second = unit(5, 5), unit(5, 5, seed=1)
    similarities = (first @ second.T).requires_grad_()
    view_contrast(similarities, torch.eye(5, dtype=torch.float64), temperature=0.2).backward()
    softmax = torch.softmax(similarities.detach() / 0.2, dim=1)
    expected = (softmax - torch.eye(5, dtype=torch.float64)) / (5 * 0.2)
    torch.testing.assert_close(similarities.grad, expected)


def test_views_do_not_depend_on_rotation_scale_or_order() -> None:
    first, second = unit(7, 4), unit(7, 4, seed=1)
    loss = view_contrast(first, second, temperature=0.1)
    rotation, _ = torch.linalg.qr(unit(4, 4, seed=2))
    turned = view_contrast(first @ rotation, second @ rotation, temperature=0.1)
    torch.testing.assert_close(turned, loss)
    scale = torch.rand(7, 1, dtype=torch.float64) + 0.5
    scaled = view_contrast(
        F.normalize(first * scale, dim=1), F.normalize(second / scale, dim=1), temperature=0.1
    )
    torch.testing.assert_close(scaled, loss)
    order = torch.randperm(7)
    torch.testing.assert_close(view_contrast(first[order], second[order], temperature=0.1), loss)
    assert not torch.isclose(view_contrast(second, first, temperature=0.1), loss)  # one direction


def test_random_vectors_are_near_the_logarithm_of_their_number() -> None:
    first, second = unit(1024, 64), unit(1024, 64, seed=1)
    assert view_contrast(first, second, temperature=10.0).item() == pytest.approx(
        math.log(1024), abs=0.01
    )
    at_half = view_contrast(first, second, temperature=0.07).item()
    assert math.log(1024) < at_half < math.log(1024) + 3


def test_square_form_is_a_sum_over_pairs() -> None:
    vectors = unit(6, 3).requires_grad_()
    expected = sum(
        (vectors[i] @ vectors[j]) ** 2 for i in range(6) for j in range(6) if i != j
    ) / torch.tensor(6.0, dtype=torch.float64)
    torch.testing.assert_close(spread_out_square(vectors), expected)


def test_a_query_without_negatives_has_no_loss() -> None:
    queries = unit(2, 3).requires_grad_()
    candidates = unit(2, 3, seed=1).requires_grad_()
    excluded = torch.tensor([[0], [1]])
    loss = batch_softmax_loss(
        queries, candidates, torch.tensor([[0], [0]]), temperature=0.1, excluded=excluded
    )
    loss.backward()
    assert loss.item() == 0.0
    assert queries.grad is not None
    assert queries.grad.abs().max() == 0
    nothing = batch_softmax_loss(
        queries, candidates, torch.zeros(2, 0, dtype=torch.long), temperature=0.1
    )
    assert nothing.item() == 0.0


def test_extreme_logits_stay_finite() -> None:
    queries = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = batch_softmax_loss(queries, queries.detach().flip(0), DIAGONAL, temperature=1e-3)
    loss.backward()
    assert loss.item() == pytest.approx(2000.0)
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"queries \[S, D\] and candidates \[C, D\]; got \(2, 2\)"):
        batch_softmax_loss(Z, torch.zeros(2, 3), DIAGONAL, temperature=0.1)
    with pytest.raises(ValueError, match=r"temperature > 0; got 0\.0"):
        batch_softmax_loss(Z, OTHER, DIAGONAL, temperature=0.0)
    with pytest.raises(ValueError, match=r"log_q \[C\], C = 2; got \(3,\)"):
        batch_softmax_loss(Z, OTHER, DIAGONAL, temperature=0.1, log_q=torch.zeros(3))
    with pytest.raises(ValueError, match=r"two views \[M, D\] .* got \(2, 2\) and \(3, 2\)"):
        view_contrast(Z, torch.zeros(3, 2), temperature=0.1)
