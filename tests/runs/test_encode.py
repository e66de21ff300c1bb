from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from ensue.errors import ConfigError, DataError, RunError, UsageError
from ensue.models.image_encoder import ImageEncoder, ImageEncoderConfig
from ensue.runs.encode import encode, load_encoder, train_encoder
from ensue.training.image_views import encode_images

SMALL = {"channels": [4, 8], "dim": 6, "head_hidden": 8, "head_dim": 4, "batch_size": 16}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 12, 12), dtype=np.uint8)


def test_features_are_those_of_the_stored_encoder(images, tmp_path):
    source = tmp_path / "images.npz"
    labels = np.arange(40)
    np.savez(source, x=images[:30], y=labels[:30], x_test=images[30:], y_test=labels[30:])
    found = encode(source, out=tmp_path / "out", epochs=2, **SMALL)
    stored = np.load(tmp_path / "out" / "features.npz")
    assert stored["x"].tolist() == found.features["train"].tolist()
    assert stored["y_test"].tolist() == list(range(30, 40))
    encoder = load_encoder(tmp_path / "out")
    again = encode_images(encoder, torch.from_numpy(images[30:, None]))
    assert np.allclose(again.numpy(), stored["x_test"], atol=1e-6)
    info = json.loads((tmp_path / "out" / "encode.json").read_text())
    assert (info["dim"], info["rows"]) == (6, {"train": 30, "test": 10})
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2
    other = encode(images, out=tmp_path / "other", encoder=tmp_path / "out")
    assert np.allclose(other.features["train"][:30], stored["x"], atol=1e-6)


def test_any_module_encodes_and_can_be_trained(images, tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
    before = encode(images, out=tmp_path / "before", encoder=module).features["train"]
    state = torch.get_rng_state()
    train_encoder(module, images, out=tmp_path / "training", dim=5, epochs=1, batch_size=16)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's numbers go on as they would
    after = encode(images, out=tmp_path / "after", encoder=module).features["train"]
    assert before.shape == after.shape == (40, 5)
    assert not np.allclose(before, after)


def test_an_encoder_takes_images_of_any_shape():
    for shape in ((1, 28, 28), (3, 9, 17), (1, 4, 4)):
        encoder = ImageEncoder(ImageEncoderConfig(dim=7), image_shape=shape)
        assert encoder(torch.rand(2, *shape)).shape == (2, 7)
    with pytest.raises(ConfigError, match="4 pixels or more; got 3 x 9"):
        ImageEncoder(ImageEncoderConfig(), image_shape=(1, 3, 9))


def test_what_has_no_meaning(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no setting 'epoch'\. Did you mean 'epochs'"):
        encode(images, out=out, epoch=3)
    with pytest.raises(UsageError, match="settings and resume are of a training"):
        encode(images, out=out, encoder=nn.Flatten(), epochs=3)
    with pytest.raises(RunError, match="is a folder in which ensue encode has trained one"):
        load_encoder(tmp_path)
    encode(images, out=out, epochs=1, **SMALL)
    with pytest.raises(UsageError, match="is finished"):
        encode(images, out=out, epochs=1, resume=True, **SMALL)
    with pytest.raises(UsageError, match="differs in images"):
        encode(images[:20], out=out, epochs=1, resume=True, **SMALL)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (np.zeros((3, 4), np.uint8), r"\[n, H, W\].*uint8 \[3, 4\]"),
        (np.zeros((3, 8, 8), np.int64), "int64"),
        (np.full((3, 8, 8), 2.0), r"0\.\.1; those of the part train lie in 2\.\.2"),
    ],
)
def test_what_are_no_images(wrong, text, tmp_path):
    with pytest.raises(DataError, match=text):
        encode(wrong, out=tmp_path / "out")
