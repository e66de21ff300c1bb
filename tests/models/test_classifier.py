"""Classifiers side by side: each is what a module of torch computes, and none touches another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ensue.errors import ConfigError
from ensue.models.classifier import ClassifierConfig, Classifiers

CONFIGS = {
    "linear": ClassifierConfig(),
    "dense": ClassifierConfig(hidden=(6, 4)),
    "convolutions": ClassifierConfig(channels=(3, 5), hidden=(6,)),
}


def make(config: ClassifierConfig, num_classifiers: int = 1) -> Classifiers:
    return Classifiers(
        config,
        input_shape=(2, 8, 9) if config.channels else (7,),
        num_classes=4,
        num_classifiers=num_classifiers,
        generator=torch.Generator().manual_seed(0),
    )


def examples(config: ClassifierConfig) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(5, 2, 8, 9) if config.channels else torch.randn(5, 7)


def as_torch(model: Classifiers, number: int) -> nn.Module:
    """Return one of the classifiers made of modules of torch."""
    layers: list[nn.Module] = []
    for weight, bias in zip(model.convolutions, model.convolution_biases, strict=True):
        layer = nn.Conv2d(weight.shape[2], weight.shape[1], 3, padding=1)
        layer.load_state_dict({"weight": weight[number], "bias": bias[number]})
        layers += [layer, nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    for weight, bias in zip(model.weights, model.biases, strict=True):
        dense = nn.Linear(weight.shape[1], weight.shape[2])
        dense.load_state_dict({"weight": weight[number].T, "bias": bias[number]})
        layers += [dense, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("name", CONFIGS)
def test_each_is_its_module_of_torch(name: str) -> None:
    model = make(CONFIGS[name], num_classifiers=3)
    torch.manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = examples(CONFIGS[name])
    logits = model(x)
    assert logits.shape == (5, 3, 4)
    for number in range(3):
        torch.testing.assert_close(
            logits[:, number], as_torch(model, number)(x), rtol=1e-4, atol=1e-4
        )
    torch.testing.assert_close(model.output_weights[1], as_torch(model, 1)[-1].weight)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_start_alike_and_only_their_own_loss_moves_them(name: str) -> None:
    model = make(CONFIGS[name], num_classifiers=3)
    logits = model(examples(CONFIGS[name]))
    torch.testing.assert_close(logits[:, 0], logits[:, 2])
    loss = torch.nn.functional.cross_entropy(logits[:, 1], torch.tensor([0, 1, 2, 3, 0]))
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad[[0, 2]].count_nonzero() == 0
        assert parameter.grad[1].count_nonzero() > 0


def test_a_linear_one_starts_at_0_and_others_do_not() -> None:
    assert make(CONFIGS["linear"])(torch.ones(1, 7)).count_nonzero() == 0
    assert make(CONFIGS["dense"])(torch.ones(1, 7)).count_nonzero() > 0


def test_convolutions_need_images() -> None:
    for shape in ((7,), (1, 3, 8)):
        with pytest.raises(ConfigError, match=r"H and W of 4 or more; got \["):
            Classifiers(
                CONFIGS["convolutions"],
                input_shape=shape,
                num_classes=2,
                generator=torch.Generator(),
            )
