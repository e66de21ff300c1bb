from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.config import make_config
from ensue.data.longitudinal.measurements import BagBatch
from ensue.errors import ConfigError
from ensue.losses.longitudinal import masked_error
from ensue.models.representation.bodies import NumbersBody
from ensue.models.representation.lssl import LSSL, LSSLConfig
from ensue.runs.longitudinal_fit import build_model

PLACES = torch.tensor([[0, 1], [0, 2], [3, 2]])
SHARES = torch.tensor([2.0, 1.0, 2.0, 1.0]) / 3
SHAPES: dict[str, list[int]] = {"table": [5], "volume": [1, 4, 4, 4]}


def make(shape: list[int], **settings: Any) -> LSSL:
    torch.manual_seed(0)
    config = make_config(LSSLConfig, {"dim": 3, "hidden": [6], "channels": [2], **settings})
    return build_model(config, {"shape": shape}).double()


def measured(shape: list[int]) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1)).double()


def test_the_terms_are_means_over_pairs() -> None:
    model, x = make([5], direction="closed", weight=0.5), measured([5])
    terms = model.losses(x, SHARES.double(), PLACES)
    assert isinstance(model.body, NumbersBody)
    codes = model.encode(x)
    errors = masked_error(model.body.decode(codes), x)
    both = [errors[a] + errors[b] for a, b in PLACES.tolist()]
    torch.testing.assert_close(terms["reconstruction"], torch.stack(both).mean())
    differences = F.normalize(codes[PLACES[:, 1]] - codes[PLACES[:, 0]], dim=1)
    expected = 0.5 * (1 - differences.mean(dim=0).norm())
    torch.testing.assert_close(terms["direction"], expected)


@pytest.mark.parametrize("kind", ["table", "volume"])
@pytest.mark.parametrize("direction", ["learned", "closed"])
def test_gradients_are_those_of_finite_differences(kind: str, direction: str) -> None:
    shape = SHAPES[kind]
    model, x = make(shape, direction=direction), measured(shape)
    if kind == "table":
        x[1, 2] = torch.nan

    def loss() -> Tensor:
        return torch.stack(list(model.losses(x, SHARES.double(), PLACES).values())).sum()

    loss().backward()
    step = 1e-5
    for parameter in model.parameters():
        assert parameter.grad is not None
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for place in {0, len(flat) // 2, len(flat) - 1}:
            before = float(flat[place])
            flat[place] = before + step
            above = float(loss().detach())
            flat[place] = before - step
            below = float(loss().detach())
            flat[place] = before
            assert (above - below) / (2 * step) == pytest.approx(float(grad[place]), abs=1e-6)


def test_the_moving_average_by_hand() -> None:
    model, x = make([5], memory=0.75), measured([5])
    expected = torch.zeros(3, dtype=torch.float64)
    for _ in range(2):
        model.losses(x, SHARES.double(), PLACES)
        codes = model.encode(x).detach()
        mean = F.normalize(codes[PLACES[:, 1]] - codes[PLACES[:, 0]], dim=1).mean(dim=0)
        expected = 0.75 * expected + 0.25 * mean
    torch.testing.assert_close(model.mean, expected)
    model.eval()
    model.losses(x, SHARES.double(), PLACES)
    torch.testing.assert_close(model.mean, expected)  # it learns nothing of what it is measured on


def test_the_divergence_is_that_of_the_bound() -> None:
    """The loss is 2 / F times minus the evidence bound of unit normal noise, but for a constant."""
    model, x = make([5], method="beta-vae", beta=3.0), measured([5])
    torch.manual_seed(5)
    terms = model.losses(x, SHARES.double(), PLACES)
    mean, log_variance = model.body.encode(x).chunk(2, dim=1)
    torch.manual_seed(5)
    latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    prior = torch.distributions.Normal(torch.zeros(4, 3).double(), 1.0)
    found = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = torch.distributions.kl_divergence(found, prior).sum(dim=1)
    unit = torch.distributions.Normal(model.body.decode(latent), 1.0)
    likelihood = unit.log_prob(x).sum(dim=1) + 2.5 * math.log(2 * math.pi)
    bound = likelihood - 3.0 * divergence
    expected = -(bound * 2 / 5 * SHARES).sum()
    torch.testing.assert_close(terms["reconstruction"] + terms["divergence"], expected)


def test_views_stay_what_they_are() -> None:
    torch.manual_seed(0)
    body = NumbersBody([1, 8, 8], 2, num_codes=1, hidden=[], channels=[2])
    image = torch.zeros(40, 1, 8, 8)
    image[:, :, 2:6, 2:6] = 1
    view = body.view(image, 0.0, 0.0)
    assert view.shape == image.shape
    assert 0.2 < float((view - image).abs().amax(dim=(1, 2, 3)).mean()) <= 1  # edges move
    assert view[:, :, 3:5, 3:5].min() > 0.9  # the middle does not


def test_bags_are_encoded_and_scored() -> None:
    torch.manual_seed(0)
    config = LSSLConfig(dim=3, hidden=(6,), direction="closed")
    model = build_model(config, {"num_items": 4})
    bags = BagBatch(torch.tensor([1, 2, 2, 4, 3, 1, 2]), torch.tensor([0, 3, 4, 5, 7]))
    terms = model.losses(bags, SHARES, PLACES)
    log_probabilities = model.body.decode(model.encode(bags))
    assert log_probabilities.exp().sum(dim=1).tolist() == pytest.approx([1, 1, 1, 1], abs=1e-5)
    expected = 0.0
    for bag, share in enumerate(SHARES.tolist()):
        items = bags.items[bags.offsets[bag] : bags.offsets[bag + 1]]
        expected -= share * float(log_probabilities[bag, items - 1].detach().mean())
    assert terms["reconstruction"].item() == pytest.approx(expected, rel=1e-5)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    view = model.body.view(bags, 0.0, 0.9)
    assert view.offsets.diff().min() >= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ae", "weight": 0.5}, "weight is read by lssl only; got weight=0.5"),
        ({"method": "lssl", "noise": 0.5}, "noise is read by simclr only"),
        ({"directions": 9}, "directions must be at most dim=8; got 9"),
    ],
)
def test_settings_that_nothing_reads(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(LSSLConfig, settings)
