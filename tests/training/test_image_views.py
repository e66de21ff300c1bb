from __future__ import annotations

import pytest
import torch
from torch import nn

from ensue.data.image_views import ImageViewsConfig
from ensue.errors import DataError
from ensue.losses.contrastive import nt_xent
from ensue.training.image_views import ImageViewsObjective, encode_images


def make(num_images=11, batch_size=4, **options):
    images = torch.rand(num_images, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = {"batch_size": batch_size, "temperature": 0.5, "seed": 3} | options
    return ImageViewsObjective(images, ImageViewsConfig(), **settings)


def test_an_epoch_has_full_batches_of_two_different_views():
    objective = make()
    batches = list(objective.batches(1))
    assert [len(first) for first, _ in batches] == [4, 4]
    assert objective.num_examples == 8
    assert all(not torch.equal(first, second) for first, second in batches)


def test_a_resumed_epoch_goes_on_with_the_same_views():
    (whole, rest) = list(make().batches(2)), list(make().batches(2, first=1))
    assert torch.equal(whole[1][0], rest[0][0])
    assert torch.equal(whole[1][1], rest[0][1])
    assert not torch.equal(whole[1][0], list(make().batches(1))[1][0])


def test_views_of_a_batch_are_of_the_same_images():
    nothing = ImageViewsConfig(**dict.fromkeys(ImageViewsConfig.model_fields, 0.0))
    objective = ImageViewsObjective(
        torch.rand(6, 1, 8, 8), nothing, batch_size=6, temperature=0.5, seed=0
    )
    ((first, second),) = objective.batches(1)
    assert torch.allclose(first, second)
    unit = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    model = nn.Sequential(unit, nn.LayerNorm(5))
    loss = objective.loss(model, (first, second))
    expected = nt_xent(model(first), model(second), temperature=0.5)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_one_image_is_too_few():
    with pytest.raises(DataError, match="two images or more; got 1"):
        make(num_images=1)


def test_images_are_encoded_in_evaluation_mode():
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5))
    encoder[1].running_mean += 0.5
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    found = encode_images(encoder, images)
    expected = (images.float().flatten(1) / 255 - 0.5) / (1 + 1e-5) ** 0.5
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(encode_images(encoder, images[:2]), found[:2])
    assert encoder.training
