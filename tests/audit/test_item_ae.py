from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.audit.clicks import Clicks
from ensue.audit.inner_steps import Adam, GradientDescent
from ensue.audit.item_ae import ItemAe, ItemAeConfig, ItemAeProblem, initial_parameters
from ensue.audit.unroll import Unroll

GENERATOR = np.random.default_rng(1)
CLICKED = GENERATOR.random((9, 7)) < 0.4
REAL, FAKES = CLICKED[:6], CLICKED[6:]
TARGETS = np.array([5, 2])
EPOCHS = 3


def config_of(**settings: Any) -> ItemAeConfig:
    small = {"hidden": (4, 3), "epochs": EPOCHS, "batch_items": 3, "lr": 0.05, "k": 2}
    return ItemAeConfig(**{**small, "weight": 5.0, "weight_decay": 0.01, **settings})


def dense_scores(parameters: Sequence[Tensor], clicks: Tensor, config: ItemAeConfig) -> Tensor:
    """Return scores [N, B] of the autoencoder for the columns of clicks [N, B]."""
    activation: Callable[[Tensor], Tensor] = {"tanh": torch.tanh, "selu": F.selu}[config.activation]
    value = clicks.T
    for weight, bias in zip(parameters[:-1:2], parameters[1:-1:2], strict=True):
        value = activation(value @ weight + bias)
    return parameters[-1][:, :-1] @ value.T + parameters[-1][:, -1:]


def dense_reply(
    start: Sequence[Tensor], batches: Sequence[Tensor], config: ItemAeConfig, tracked: int
) -> tuple[float, Tensor]:
    """Return L_adv and its gradient by autograd, through the last `tracked` steps of Adam."""
    fakes = torch.from_numpy(FAKES).double().requires_grad_()
    clicks = torch.cat([torch.from_numpy(REAL).double(), fakes])
    extra = config.weight - 1
    state = [[p.clone().requires_grad_(), torch.zeros_like(p), torch.zeros_like(p)] for p in start]
    for step, items in enumerate(batches):
        is_tracked = step >= len(batches) - tracked
        if not is_tracked:
            state = [[part.detach() for part in parts] for parts in state]
        if step <= len(batches) - tracked:
            for parts in state:
                parts[0].requires_grad_()
        parameters = [parts[0] for parts in state]
        x = (clicks if is_tracked else clicks.detach())[:, items]
        weights = 1 + extra * (x if config.weights == "relaxed" else x.detach())
        loss = (weights * (x - dense_scores(parameters, x, config)).square()).sum()
        gradients = torch.autograd.grad(loss, parameters, create_graph=is_tracked)
        for parts, gradient in zip(state, gradients, strict=True):
            g = gradient + config.weight_decay * parts[0]
            mean, square = 0.9 * parts[1] + 0.1 * g, 0.999 * parts[2] + 0.001 * g * g
            root = (square / (1 - 0.999 ** (step + 1))).sqrt()
            move = mean / (1 - 0.9 ** (step + 1)) / (root + 1e-8)
            parts[:] = parts[0] - config.lr * move, mean, square
    parameters = [parts[0] if tracked else parts[0].detach() for parts in state]
    scores = dense_scores(parameters, clicks, config)[: len(REAL)]
    loss = -torch.log_softmax(scores, dim=1)[:, TARGETS].mean(dim=1).sum()
    return loss.item(), torch.autograd.grad(loss, fakes)[0]


def make_start(config: ItemAeConfig, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Return the first parameters and the batches of all steps, as the surrogate draws them."""
    generator = torch.Generator().manual_seed(seed)
    start = initial_parameters(len(CLICKED), config.hidden, generator)
    batches = []
    for _ in range(EPOCHS):
        batches += torch.randperm(7, generator=generator).split(config.batch_items)
    return [p.double() for p in start], batches


def reply_in_float64(config: ItemAeConfig, tracked: int | None) -> Tensor:
    start, batches = make_start(config)
    problem = ItemAeProblem(Clicks.from_dense(REAL), batches, start, config=config)
    problem.place(FAKES)
    unroll = Unroll(problem, Adam(config.lr, config.weight_decay), tracked_steps=tracked)
    parameters = unroll.train()
    with torch.no_grad():
        items = problem.item_vectors(parameters)
    users = parameters[-1][: len(REAL)]
    slopes = (users @ items.T).softmax(dim=1)
    slopes[:, TARGETS] -= 1 / len(TARGETS)
    to_parameters = [torch.zeros_like(p) for p in parameters]
    to_parameters[-1][: len(REAL)] = slopes @ items
    to_fakes = torch.zeros(FAKES.shape, dtype=torch.float64)
    problem.pull_back_vectors(parameters, slopes.T @ users, to_parameters, to_fakes)
    unroll.pull_back(to_parameters, to_fakes)
    return to_fakes


@pytest.mark.parametrize("weights", ["constant", "relaxed"])
@pytest.mark.parametrize("activation", ["tanh", "selu"])
@pytest.mark.parametrize("tracked", [9, 4, 1, 0])
def test_gradients_are_those_of_autograd_through_the_dense_loss(
    weights: str, activation: str, tracked: int
) -> None:
    config = config_of(weights=weights, activation=activation)
    _, expected = dense_reply(*make_start(config), config, tracked)
    found = reply_in_float64(config, None if tracked == 9 else tracked)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 1e-3  # of no tracked step as well: fake users are inputs


@pytest.mark.parametrize("hidden", [(3,), (5, 3, 2)])
def test_fewer_and_more_layers(hidden: tuple[int, ...]) -> None:
    config = config_of(hidden=hidden)
    _, expected = dense_reply(*make_start(config), config, 9)
    torch.testing.assert_close(reply_in_float64(config, None), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tracked_epochs", [None, 1, 0])
def test_a_reply_is_that_of_the_dense_training(tracked_epochs: int | None) -> None:
    config = config_of(tracked_epochs=tracked_epochs)
    tracked = 9 if tracked_epochs is None else 3 * tracked_epochs
    loss, expected = dense_reply(*make_start(config, seed=4), config, tracked)
    surrogate = ItemAe(Clicks.from_dense(REAL), TARGETS, config, 4, num_fakes=3)
    reply = surrogate.reply(FAKES)
    assert reply.loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(
        reply.gradient, expected, rtol=0, atol=1e-3 * float(expected.abs().max())
    )
    surrogate.reply(~FAKES)
    np.testing.assert_array_equal(surrogate.reply(FAKES).gradient, reply.gradient)


def test_training_lowers_the_loss_of_all_cells() -> None:
    config = config_of(hidden=(16, 8))
    start, _ = make_start(config)
    problem = ItemAeProblem(Clicks.from_dense(REAL), [torch.arange(7)] * 400, start, config=config)
    problem.place(FAKES)
    clicks = torch.from_numpy(CLICKED).double()
    weights = 1 + 4 * clicks
    losses = [
        (weights * (clicks - dense_scores(parameters, clicks, config)).square()).sum().item()
        for parameters in (start, Unroll(problem, GradientDescent(3e-3), tracked_steps=0).train())
    ]
    assert losses[1] < 0.2 * losses[0]


def test_no_fake_users_is_a_clean_training() -> None:
    surrogate = ItemAe(Clicks.from_dense(REAL), TARGETS, config_of(), 0, num_fakes=0)
    reply = surrogate.reply(FAKES[:0])
    assert reply.gradient.shape == (0, 7)
    assert np.isfinite(reply.loss)
