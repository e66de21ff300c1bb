from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.audit.clicks import Clicks
from ensue.audit.wrmf_als import WrmfAls, WrmfAlsConfig, cell_gradient
from ensue.data.cooccurrence import transpose
from ensue.models.baselines.wrmf import initial_vectors
from ensue.nn.weighted_ridge import solve_rows, whiten

GENERATOR = np.random.default_rng(0)
CLICKED = GENERATOR.random((30, 12)) < 0.3
REAL, FAKES = CLICKED[:25], CLICKED[25:]
TARGETS = np.array([9, 4])
WEIGHT, RIDGE = 20.0, 0.05


def solve_densely(vectors: Tensor, clicked: Tensor, weights: Tensor) -> Tensor:
    """Return (V'CV + ridge)^-1 V'Cx for each column x of `clicked` [N, B], C from `weights`."""
    matrices = torch.einsum("nd,nb,ne->bde", vectors, weights, vectors)
    matrices = matrices + RIDGE * torch.eye(vectors.shape[1], dtype=vectors.dtype)
    return torch.linalg.solve(matrices, (weights * clicked).T @ vectors)


def loss_through_items(users: Tensor, fakes: Tensor, weights: str) -> tuple[Tensor, Tensor]:
    """Return L_adv with items solved from real and fake cells, and the scores of all users."""
    clicked = torch.cat([torch.from_numpy(REAL).double(), fakes])
    c = 1 + (WEIGHT - 1) * (clicked.detach() if weights == "constant" else clicked)
    scores = users @ solve_densely(users, clicked, c).T
    chosen = torch.log_softmax(scores[: len(REAL)], dim=1)[:, TARGETS]
    return -chosen.mean(dim=1).sum(), scores


def gradient_by_autograd(users: Tensor, weights: str) -> tuple[float, Tensor, Tensor]:
    fakes = torch.from_numpy(FAKES).double().requires_grad_()
    loss, scores = loss_through_items(users, fakes, weights)
    (gradient,) = torch.autograd.grad(loss, fakes)
    return loss.item(), gradient, scores.detach()


@pytest.mark.parametrize("weights", ["constant", "relaxed"])
@pytest.mark.parametrize("dim", [3, 20])  # fewer and more than the users of an item
def test_the_closed_form_is_the_derivative_through_the_items(weights: str, dim: int) -> None:
    users = torch.from_numpy(GENERATOR.normal(size=(30, dim)))
    _, expected, scores = gradient_by_autograd(users, weights)
    clicks = Clicks.from_dense(CLICKED)
    by_item = [torch.from_numpy(a) for a in transpose(clicks.offsets, clicks.columns, 11)]
    rows = whiten(users, RIDGE).rows
    items = solve_rows(rows, *by_item, WEIGHT)
    torch.testing.assert_close(rows @ items.T, scores, rtol=0, atol=1e-12)
    slopes = scores[: len(REAL)].softmax(dim=1)
    slopes[:, TARGETS] -= 1 / len(TARGETS)
    moved = solve_rows(rows, *by_item, WEIGHT, slopes.T @ rows[: len(REAL)])
    found = cell_gradient(
        rows[len(REAL) :], items, moved, torch.from_numpy(FAKES), WEIGHT, weights == "relaxed"
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def reply_of(fakes: np.ndarray[Any, Any], weights: Literal["constant", "relaxed"]) -> Any:
    config = WrmfAlsConfig(dim=6, sweeps=3, weights=weights, k=3)
    real = Clicks.from_dense(REAL)
    return WrmfAls(real, TARGETS, config, 5, num_fakes=len(fakes)).reply(fakes)


@pytest.mark.parametrize("weights", ["constant", "relaxed"])
def test_a_reply_is_that_of_dense_sweeps(weights: Literal["constant", "relaxed"]) -> None:
    clicked = torch.from_numpy(CLICKED).double()
    c = 1 + (WEIGHT - 1) * clicked
    items = initial_vectors(12, 6, 5).double()
    for _ in range(3):
        users = solve_densely(items, clicked.T, c.T)
        items = solve_densely(users, clicked, c)
    loss, gradient, scores = gradient_by_autograd(users, weights)
    reply = reply_of(FAKES, weights)
    assert reply.loss == pytest.approx(loss, rel=1e-5)
    assert reply.gradient.dtype == np.float32
    np.testing.assert_allclose(reply.gradient, gradient, rtol=0, atol=1e-4 * gradient.abs().max())
    unseen = scores[: len(REAL)].masked_fill(torch.from_numpy(REAL), -torch.inf)
    best = unseen.sort(dim=1, descending=True, stable=True).indices[:, :3]
    is_hit = torch.isin(best, torch.from_numpy(TARGETS)).any(dim=1)
    assert reply.hit_rate == pytest.approx(is_hit.double().mean().item())


def test_rows_move_with_the_fake_users_and_every_reply_starts_anew() -> None:
    real = Clicks.from_dense(REAL)
    surrogate = WrmfAls(real, TARGETS, WrmfAlsConfig(dim=4), 0, num_fakes=5)
    first = surrogate.reply(FAKES).gradient
    order = [3, 0, 4, 1, 2]
    moved = surrogate.reply(FAKES[order]).gradient
    np.testing.assert_allclose(moved, first[order], rtol=0, atol=1e-3 * np.abs(first).max())
    np.testing.assert_array_equal(surrogate.reply(FAKES).gradient, first)


def test_no_fake_users_is_a_clean_training() -> None:
    reply = reply_of(FAKES[:0], "constant")
    assert reply.gradient.shape == (0, 12)
    assert np.isfinite(reply.loss)


def test_fake_users_follow_the_real_ones() -> None:
    clicks = Clicks.from_dense(REAL).join(Clicks.from_dense(FAKES))
    np.testing.assert_array_equal(clicks.dense(np.arange(30)), CLICKED)
