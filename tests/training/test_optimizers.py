from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ensue.optim.clippy import Clippy, Direction, Rule
from ensue.training.config import TrainingConfig
from ensue.training.optimizers import make_optimizer


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"embedding": nn.Embedding(4, 3), "layer": nn.Linear(3, 2)})


@pytest.mark.parametrize(
    ("settings", "rule", "direction"),
    [
        ({}, Rule(), Direction()),
        ({"clip_relative": 0.1, "clip_absolute": 0.2}, Rule("clippy", 0.1, 0.2), Direction()),
        ({"clip_rule": "gc", "clip_threshold": 0.05}, Rule("gc", threshold=0.05), Direction()),
        ({"clip_rule": "agc", "clip_threshold": 0.05}, Rule("agc", threshold=0.05), Direction()),
        ({"clip_rule": "lamb", "clip_threshold": 0.05}, Rule("lamb", threshold=0.05), Direction()),
        ({"clip_rule": "none"}, Rule("none"), Direction()),
        ({"clip_direction": "delayed_adagrad"}, Rule(), Direction("delayed_adagrad")),
        ({"clip_direction": "adam"}, Rule(), Direction("adam")),
    ],
)
def test_settings_reach_the_optimizer(
    settings: dict[str, Any], rule: Rule, direction: Direction
) -> None:
    """Steps of the made optimizer are those of one that is made by hand; tables have no rule."""
    ours, theirs = model(), model()
    config = TrainingConfig(optimizer="clippy", learning_rate=0.5, weight_decay=0.01, **settings)
    by_hand = [
        Clippy(part.parameters(), lr=0.5, rule=own, direction=direction, weight_decay=0.01)
        for part, own in ((theirs["layer"], rule), (theirs["embedding"], Rule("none")))
    ]
    made = make_optimizer(ours, config)
    for _ in range(3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in (made, *by_hand):
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
