from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ensue.audit.inner_steps import Adam, GradientDescent
from ensue.audit.unroll import AutogradProblem, Unroll
from tests.audit.toy import FAKE, RATE, REAL, ToyProblem, dense_adversarial_loss, toy_start

OPTIMIZERS = {"gd": GradientDescent(RATE), "adam": Adam(RATE)}
# optimizer, relaxed weights, tracked steps, loss, gradient: the table of the specification
WORKED = [
    ("gd", False, 6, 4.57220122, (0.066833, -0.142433, -0.060452, 0.046214)),
    ("gd", False, 3, 4.57220122, (0.008578, -0.038650, 0.005642, -0.007384)),
    ("gd", False, 1, 4.57220122, (-0.001146, -0.029663, 0.001549, 0.028453)),
    ("gd", True, 6, 4.57220122, (0.062426, -0.246876, -0.058084, 0.075074)),
    ("adam", False, 6, 4.05536148, (-0.024166, 0.001590, 0.003987, -0.030480)),
    ("adam", False, 1, 4.05536148, (-0.001141, 0.001008, 0.000185, -0.000047)),
    ("adam", True, 6, 4.05536148, (-0.022065, 0.002123, 0.004036, -0.048611)),
]


def attack_gradient(
    problem: AutogradProblem, optimizer: Any, **settings: Any
) -> tuple[float, Tensor]:
    """Return the adversarial loss and its gradient by the fakes [F, I]."""
    unroll = Unroll(problem, optimizer, **settings)
    trained = [p.clone().requires_grad_() for p in unroll.train()]
    loss = dense_adversarial_loss(trained)
    to_fakes = torch.zeros_like(problem.fakes)
    unroll.pull_back(list(torch.autograd.grad(loss, trained)), to_fakes)
    return loss.item(), to_fakes


@pytest.mark.parametrize(("name", "is_relaxed", "tracked", "loss", "gradient"), WORKED)
def test_worked_gradients(
    name: str, is_relaxed: bool, tracked: int, loss: float, gradient: tuple[float, ...]
) -> None:
    problem = ToyProblem(is_relaxed=is_relaxed)
    found, to_fakes = attack_gradient(problem, OPTIMIZERS[name], tracked_steps=tracked)
    assert found == pytest.approx(loss, abs=1e-8)
    assert to_fakes[0].tolist() == pytest.approx(list(gradient), abs=1e-6)


@pytest.mark.parametrize("is_relaxed", [False, True], ids=["constant", "relaxed"])
@pytest.mark.parametrize("name", ["gd", "adam"])
def test_full_gradient_is_the_slope_of_a_retraining(name: str, is_relaxed: bool) -> None:
    _, to_fakes = attack_gradient(ToyProblem(is_relaxed=is_relaxed), OPTIMIZERS[name])
    for item in range(4):
        losses = []
        for sign in (1, -1):
            fakes = FAKE.clone()
            fakes[0, item] += sign * 1e-5
            problem = ToyProblem(fakes, is_relaxed=is_relaxed, weights_of=FAKE)
            losses.append(attack_gradient(problem, OPTIMIZERS[name], tracked_steps=0)[0])
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float(to_fakes[0, item]), abs=1e-8)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gd", (0.409041, 0.222996, -0.243364, 0.058955)),
        ("adam", (0.095324, 0.042935, 0.084537, 0.001832)),
    ],
)
def test_retraining_after_a_flip(name: str, changes: tuple[float, ...]) -> None:
    before, _ = attack_gradient(ToyProblem(), OPTIMIZERS[name], tracked_steps=0)
    for item, change in enumerate(changes):
        fakes = FAKE.clone()
        fakes[0, item] = 1 - fakes[0, item]
        after, _ = attack_gradient(ToyProblem(fakes), OPTIMIZERS[name], tracked_steps=0)
        assert after - before == pytest.approx(change, abs=1e-6)


def test_one_step_has_a_closed_form() -> None:
    loss, to_fakes = attack_gradient(ToyProblem(num_steps=1), OPTIMIZERS["gd"])
    assert loss == pytest.approx(4.084852517719645, abs=1e-12)
    unroll = Unroll(ToyProblem(num_steps=1), OPTIMIZERS["gd"])
    users, items = unroll.train()
    slopes = torch.softmax(users[:3] @ items.T, dim=1)
    slopes[:, 2] -= 1
    weights = 1 + 2 * FAKE[0]
    expected = 2 * RATE * weights * (slopes.T @ (users[:3] @ toy_start()[0][3]))
    assert to_fakes[0].tolist() == pytest.approx(expected.tolist(), abs=1e-14)
    values = (-0.001581, -0.006768, 0.004889, -0.003154)
    assert expected.tolist() == pytest.approx(list(values), abs=1e-6)


@pytest.mark.parametrize("name", ["gd", "adam"])
@pytest.mark.parametrize("tracked", [1, 4, 7, None])
def test_states_computed_again_are_those_stored(name: str, tracked: int | None) -> None:
    optimizer = OPTIMIZERS[name]
    results = [
        attack_gradient(ToyProblem(num_steps=7), optimizer, tracked_steps=tracked, stretch=stretch)[
            1
        ]
        for stretch in (None, 1, 3, 7)
    ]
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_a_second_round_gives_the_same() -> None:
    problem = ToyProblem()
    unroll = Unroll(problem, OPTIMIZERS["adam"])
    found = []
    for _ in range(2):
        trained = unroll.train()
        to_fakes = torch.zeros_like(FAKE)
        unroll.pull_back([torch.ones_like(p) for p in trained], to_fakes)
        found.append(to_fakes)
    assert torch.equal(found[0], found[1])
    assert found[0].any()


def test_no_tracked_step_gives_no_gradient() -> None:
    _, to_fakes = attack_gradient(ToyProblem(), OPTIMIZERS["adam"], tracked_steps=0)
    assert not to_fakes.any()


def test_no_fake_user_is_the_training_without() -> None:
    none = torch.zeros(0, 4, dtype=torch.float64)
    loss, to_fakes = attack_gradient(ToyProblem(none), OPTIMIZERS["adam"])
    assert to_fakes.shape == (0, 4)
    users, items = (p.clone().requires_grad_() for p in toy_start(3))
    optimizer = torch.optim.Adam([users, items], lr=RATE)
    for _ in range(6):
        optimizer.zero_grad()
        ((1 + 2 * REAL) * (REAL - users @ items.T).square()).sum().backward()
        optimizer.step()
    assert loss == pytest.approx(dense_adversarial_loss([users, items]).item(), abs=1e-12)


def test_fake_users_may_change_places() -> None:
    fakes = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)
    users, items = toy_start(6)
    order = torch.tensor([2, 0, 1])
    moved = torch.cat([users[:3], users[3:][order]])
    _, plain = attack_gradient(ToyProblem(fakes), OPTIMIZERS["adam"])
    _, found = attack_gradient(ToyProblem(fakes[order], start=[moved, items]), OPTIMIZERS["adam"])
    torch.testing.assert_close(found, plain[order], rtol=0, atol=1e-12)


def test_real_users_may_change_places() -> None:
    users, items = toy_start()
    order = torch.tensor([2, 0, 1])
    moved = torch.cat([users[:3][order], users[3:]])
    problem = ToyProblem(real=REAL[order], start=[moved, items])
    loss, found = attack_gradient(problem, OPTIMIZERS["adam"])
    plain_loss, plain = attack_gradient(ToyProblem(), OPTIMIZERS["adam"])
    assert loss == pytest.approx(plain_loss, abs=1e-12)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
