from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.audit.clicks import Clicks
from ensue.audit.inner_steps import Adam, GradientDescent
from ensue.audit.unroll import AutogradProblem, Unroll
from ensue.audit.wrmf_sgd import WrmfProblem, WrmfSgd, WrmfSgdConfig
from ensue.config import make_config
from ensue.errors import ConfigError
from tests.audit.toy import FAKE, RATE, REAL, dense_adversarial_loss, dense_loss, toy_start

WEIGHT = 20.0
BATCHES = [np.array(rows) for rows in ([6, 0, 3], [5, 2], [1, 4], [0, 5, 6, 2], [3, 4, 1])]


class Dense(AutogradProblem):
    """The same training with a matrix [B, I] in every step."""

    def __init__(self, clicks: Tensor, num_real: int, start: Sequence[Tensor], weights: str):
        self.num_steps, self.real, self.fakes = len(BATCHES), clicks[:num_real], clicks[num_real:]
        self._start, self._weights = start, weights

    def start(self) -> list[Tensor]:
        return list(self._start)

    def loss(self, step: int, parameters: Sequence[Tensor], fakes: Tensor) -> Tensor:
        rows = BATCHES[step]
        clicks = torch.cat([self.real, fakes])[rows]
        known = torch.cat([self.real, self.fakes])[rows]
        weights = 1 + (WEIGHT - 1) * known if self._weights == "constant" else None
        return dense_loss([parameters[0][rows], parameters[1]], clicks, weights, WEIGHT)


def both(weights: Any = "constant") -> tuple[WrmfProblem, Dense]:
    """Return ours and the dense one: 5 real and 2 fake users, 9 items, width 3."""
    generator = torch.Generator().manual_seed(1)
    clicks = (torch.rand(7, 9, generator=generator) < 0.4).double()
    start = tuple(torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (7, 9))
    real = Clicks.from_dense(clicks[:5].bool().numpy())
    ours = WrmfProblem(real, BATCHES, start, weight=WEIGHT, weights=weights)
    ours.place(clicks[5:].bool().numpy())
    return ours, Dense(clicks, 5, start, weights)


def noise(like: Sequence[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in like]


@pytest.mark.parametrize("step", range(len(BATCHES)))
def test_loss_and_gradient_are_those_of_all_cells(step: int) -> None:
    ours, dense = both()
    parameters = ours.start()
    found, expected = noise(parameters, 2), noise(parameters, 3)  # to be overwritten
    loss = ours.loss_and_gradient(step, parameters, found)
    dense.gradient(step, parameters, expected)
    assert loss == pytest.approx(dense.loss(step, parameters, dense.fakes).item(), rel=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weights", ["constant", "relaxed"])
@pytest.mark.parametrize("step", range(len(BATCHES)))
def test_second_derivatives_are_those_of_all_cells(step: int, weights: str) -> None:
    results = []
    for problem in both(weights):
        parameters = problem.start()
        to_parameters, to_fakes = noise(parameters, 2), torch.ones(2, 9, dtype=torch.float64)
        problem.pull_back(step, parameters, noise(parameters, 4), to_parameters, to_fakes)
        results.append([*to_parameters, to_fakes])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weights", ["constant", "relaxed"])
def test_unrolled_gradient_is_that_of_the_dense_form(weights: str) -> None:
    results = []
    for problem in both(weights):
        unroll = Unroll(problem, Adam(0.05, 1e-3))
        trained = unroll.train()
        to_fakes = torch.zeros(2, 9, dtype=torch.float64)
        unroll.pull_back([t.cos() for t in trained], to_fakes)
        results.append(to_fakes)
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("optimizer", "weights", "gradient"),
    [
        (GradientDescent(RATE), "constant", (0.066833, -0.142433, -0.060452, 0.046214)),
        (GradientDescent(RATE), "relaxed", (0.062426, -0.246876, -0.058084, 0.075074)),
        (Adam(RATE), "constant", (-0.024166, 0.001590, 0.003987, -0.030480)),
        (Adam(RATE), "relaxed", (-0.022065, 0.002123, 0.004036, -0.048611)),
    ],
)
def test_worked_gradients(optimizer: Any, weights: Any, gradient: tuple[float, ...]) -> None:
    users, items = toy_start()
    problem = WrmfProblem(
        Clicks.from_dense(REAL.bool().numpy()),
        [np.arange(4)] * 6,
        (users, items),
        weight=3.0,
        weights=weights,
    )
    problem.place(FAKE.bool().numpy())
    unroll = Unroll(problem, optimizer)
    trained = [p.clone().requires_grad_() for p in unroll.train()]
    slopes = torch.autograd.grad(dense_adversarial_loss(trained), trained)
    to_fakes = torch.zeros_like(FAKE)
    unroll.pull_back(list(slopes), to_fakes)
    assert to_fakes[0].tolist() == pytest.approx(list(gradient), abs=1e-6)


def test_items_may_change_places() -> None:
    ours, _ = both()
    order = np.array([4, 2, 0, 8, 7, 1, 3, 5, 6])
    users, items = ours.start()
    generator = torch.Generator().manual_seed(1)
    clicks = (torch.rand(7, 9, generator=generator) < 0.4).numpy()[:, order]
    real = Clicks.from_dense(clicks[:5])
    moved = WrmfProblem(real, BATCHES, (users, items[order]), weight=WEIGHT, weights="constant")
    moved.place(clicks[5:])
    results = []
    for problem in (ours, moved):
        unroll = Unroll(problem, Adam(0.05))
        to_fakes = torch.zeros(2, 9, dtype=torch.float64)
        unroll.pull_back([t.clone() for t in unroll.train()], to_fakes)
        results.append(to_fakes)
    torch.testing.assert_close(results[1], results[0][:, order], rtol=1e-10, atol=1e-10)


def surrogate(**settings: Any) -> tuple[WrmfSgd, np.ndarray]:
    rng = np.random.default_rng(0)
    real = Clicks.from_dense(rng.random((20, 12)) < 0.3)
    config = WrmfSgdConfig(dim=4, epochs=6, batch_users=8, lr=0.05, k=3, **settings)
    fakes = rng.random((3, 12)) < 0.3
    return WrmfSgd(real, np.array([2, 5]), config, seed=7, num_fakes=3), fakes


def test_a_reply_is_repeatable_and_depends_on_the_epochs_tracked() -> None:
    model, fakes = surrogate()
    reply = model.reply(fakes)
    again = model.reply(fakes)
    assert reply.loss == again.loss
    assert np.array_equal(reply.gradient, again.gradient)
    truncated = surrogate(tracked_epochs=1)[0].reply(fakes)
    assert truncated.loss == reply.loss
    assert not np.allclose(truncated.gradient, reply.gradient)
    all_epochs = surrogate(tracked_epochs=6)[0].reply(fakes)
    assert np.array_equal(all_epochs.gradient, reply.gradient)


def test_two_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fakes = surrogate()
    alone = model.reply(fakes)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    together = model.reply(fakes)
    assert together.loss == alone.loss
    assert np.array_equal(together.gradient, alone.gradient)


def test_a_weight_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"WrmfSgdConfig.weight.*0\.5"):
        make_config(WrmfSgdConfig, {"weight": 0.5})
