from __future__ import annotations

import pytest
import torch

from ensue.data.image_views import ImageViewsConfig, make_views, to_unit

NOTHING = dict.fromkeys(ImageViewsConfig.model_fields, 0.0)


def views(images, seed=0, **settings):
    config = ImageViewsConfig(**{**NOTHING, **settings})
    return make_views(images, config, torch.Generator().manual_seed(seed))


def smooth(size=28):
    line = torch.linspace(-1, 1, size)
    bump = torch.exp(-8 * ((line[:, None] - 0.2) ** 2 + (line[None] + 0.1) ** 2))
    return bump.expand(6, 2, size, size).contiguous()


def test_nothing_changes_nothing():
    images = torch.rand(3, 1, 9, 7)
    assert torch.allclose(views(images), images, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": 0.3},
        {"rotation": 30},
        {"shear": 20},
        {"stretch": 0.5},
        {"elastic": 0.05},
        {"blur": 1.0},
        {"contrast": 0.5},
        {"gamma": 1.0},
        {"erase": 0.5},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_each_setting_changes_images_each_in_its_own_way(settings):
    images = smooth()
    found = views(images, **settings)
    assert found.shape == images.shape
    assert (found >= 0).all()
    assert (found <= 1).all()
    gaps = (found - images).flatten(1).abs().amax(dim=1)
    assert (gaps > 1e-3).sum() >= 5
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert torch.equal(found[:, 0], found[:, 1])  # all channels alike
    assert torch.equal(found, views(images, **settings))
    assert not torch.equal(found, views(images, seed=1, **settings))


def test_a_rotation_keeps_what_lies_in_the_middle():
    images = torch.zeros(1, 1, 29, 29)
    images[0, 0, 14, 14:25] = 1  # a line from the middle to the right
    found = views(images, rotation=90, seed=3)[0, 0]
    line = found.nonzero().float() - 14
    assert found[14, 14] > 0.5
    assert found.sum() == pytest.approx(11, abs=1.5)
    assert line.norm(dim=1).max() < 12


def test_an_erased_rectangle_is_zero_and_the_rest_is_kept():
    found = views(torch.ones(50, 1, 20, 20), erase=0.5)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    shares = (found == 0).float().mean(dim=(1, 2, 3))
    assert shares.max() <= 0.3
    assert shares.mean() == pytest.approx(1 / 16, abs=0.03)
    for image in found:
        rows, columns = (image[0] == 0).any(dim=1), (image[0] == 0).any(dim=0)
        assert (image[0] == 0).sum() == rows.sum() * columns.sum()


def test_contrast_and_gamma_are_what_they_say():
    half = torch.full((2000, 1, 2, 2), 0.5)
    gains = views(half, contrast=0.4)[:, 0, 0, 0] / 0.5
    assert (gains.min(), gains.max()) == (
        pytest.approx(0.6, abs=0.01),
        pytest.approx(1.4, abs=0.01),
    )
    powers = views(half, gamma=1.0)[:, 0, 0, 0].log() / torch.tensor(0.5).log()
    assert (powers.min(), powers.max()) == (
        pytest.approx(0.5, abs=0.01),
        pytest.approx(2, abs=0.01),
    )


def test_bytes_are_divided():
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0, 0.2, 1]
    )
