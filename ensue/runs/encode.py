"""Train an encoder of images without labels, and write their features.

```
DIR/settings.json         what the training is, so that no other is continued
DIR/encode.json           settings, shapes, versions; written last
DIR/features.npz          x, and y, x_test, y_test where the images have them: features and labels
DIR/encoder.safetensors   the encoder, unless it was the caller's
DIR/log.jsonl             one line an epoch
DIR/checkpoints/          to resume from
```
Shapes: n images of a part, C channels, H x W pixels, D width of the features.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ensue.config import Config, make_config
from ensue.data.image_views import ImageViewsConfig
from ensue.errors import ConfigError, DataError, RunError, UsageError, did_you_mean
from ensue.files import atomic_directory, atomic_file, write_json
from ensue.models.image_encoder import ContrastiveModel, ImageEncoder, ImageEncoderConfig
from ensue.runs.cluster_data import load_parts
from ensue.runs.environment import describe_making
from ensue.runs.output import open_output
from ensue.training.checkpoints import load_tensors, save_tensors
from ensue.training.config import TrainingConfig
from ensue.training.image_views import ImageViewsObjective, encode_images
from ensue.training.loop import TrainingLoop, pick_device

MARKER = "encode.json"
WEIGHTS = "encoder.safetensors"
# Settings of the training that an encoder reads, and what they are unless the caller says else.
TRAINING: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 512,
    "learning_rate": 2e-3,
    "decay": "cosine",
    "warmup_steps": 30,
    "weight_decay": 1e-6,
    "clip_norm": None,
    "precision": "float32",
    "checkpoint_seconds": 60.0,
    "seed": 0,
    "device": "auto",
    "prefetch": 2,
    "tensorboard": False,
}


class ContrastConfig(Config):
    """temperature: of the softmax over the views of a batch; low ones mind the hardest most."""

    temperature: float = Field(default=0.5, gt=0)


@dataclass(frozen=True)
class _Settings:
    encoder: ImageEncoderConfig
    views: ImageViewsConfig
    contrast: ContrastConfig
    training: TrainingConfig

    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self.training, name) for name in TRAINING}
        groups = (self.encoder, self.views, self.contrast)
        return {n: v for group in groups for n, v in group.model_dump(mode="json").items()} | own


@dataclass(frozen=True)
class Encoded:
    """What `encode` found: features [n, D] and labels by part ("train", "test"), and encode.json.

    encoder: in evaluation mode.
    """

    features: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[Any]] | None
    encoder: nn.Module
    info: dict[str, Any]


def encode(
    source: Any,
    *,
    out: str | Path,
    encoder: str | Path | nn.Module | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Encoded:
    """Write features of images: of a new encoder, trained on the views of x alone, or a given one.

    Neither labels nor the images of x_test are trained on.

    Args:
        source: images [n, H, W] or [n, C, H, W], bytes, or floats in 0..1; or a .npy or .npz file
            (x, y, x_test, y_test).
        out: a new folder; an unfinished training in it is continued with resume=True.
        encoder: any module that takes images [B, C, H, W] in 0..1, or a folder made by `encode`;
            nothing is trained then. `train_encoder` trains a module of the caller's.
        settings: of the encoder, the views, the contrast and the training (`ImageEncoderConfig`,
            `ImageViewsConfig`, `ContrastConfig`, `TRAINING`), by field name.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning, or the folder exists.
        DataError: these are no images.
        RunError: the folder of the encoder is none, or the loss is not finite.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    started, out = time.perf_counter(), Path(out)
    images, labels = _read(source)
    if encoder is not None:
        if settings or resume:
            raise UsageError(
                "settings and resume are of a training; an encoder that is given has none."
            )
        module = encoder if isinstance(encoder, nn.Module) else load_encoder(encoder)
        named = type(module).__name__ if module is encoder else str(encoder)
        with atomic_directory(out, marker=MARKER, overwrite=overwrite) as folder:
            return _write(folder, module, images, labels, {"encoder": named}, started)
    config = _settings(settings)
    identity = {"kind": "encoder", "settings": config.to_dict(), "images": _hash(images["train"])}
    is_resumed = open_output(
        out, "settings.json", identity, work="training", resume=resume, overwrite=overwrite
    )
    if is_resumed and (out / MARKER).is_file():
        raise UsageError(f"a training is resumed when it is unfinished; {out} is finished.")
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        module = ImageEncoder(config.encoder, image_shape=tuple(images["train"].shape[1:]))
        _train(module, images["train"], config, out, resume=is_resumed)
    save_tensors(out / WEIGHTS, module.state_dict(), {})
    return _write(out, module, images, labels, {"settings": config.to_dict()}, started)


def train_encoder(encoder: nn.Module, images: Any, *, out: str | Path, **settings: Any) -> None:
    """Train any encoder of images by its views, in place; log and checkpoints lie in `out`.

    Args:
        encoder: returns [B, dim] of images [B, C, H, W]; give `dim` with the settings.
        images: as in `encode`; of a file, x.
        settings: as in `encode`, but channels.
    """
    config = _settings(settings)
    parts, _ = _read(images)
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        _train(encoder, parts["train"], config, Path(out), resume=False)


def load_encoder(path: str | Path) -> ImageEncoder:
    """Return the encoder that `encode` trained at `path`, in evaluation mode.

    Raises:
        RunError: there is none.
    """
    path = Path(path)
    if not ((path / MARKER).is_file() and (path / WEIGHTS).is_file()):
        raise RunError(
            f"an encoder is a folder in which ensue encode has trained one; {path} is not."
        )
    info = json.loads((path / MARKER).read_text(encoding="utf-8"))
    own = {n: v for n, v in info["settings"].items() if n in ImageEncoderConfig.model_fields}
    config = make_config(ImageEncoderConfig, own)
    encoder = ImageEncoder(config, image_shape=tuple(info["image_shape"]))
    encoder.load_state_dict(load_tensors(path / WEIGHTS)[0])
    return encoder.eval()


def _settings(settings: Mapping[str, Any]) -> _Settings:
    known: dict[str, type[Config]] = dict.fromkeys(TRAINING, TrainingConfig)
    for kind in (ImageEncoderConfig, ImageViewsConfig, ContrastConfig):
        known |= dict.fromkeys(kind.model_fields, kind)
    for name in settings:
        if name not in known:
            raise ConfigError(f"an encoder has no setting {name!r}.{did_you_mean(name, known)}")

    def pick(kind: type[Config]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if known[name] is kind}

    return _Settings(
        make_config(ImageEncoderConfig, pick(ImageEncoderConfig)),
        make_config(ImageViewsConfig, pick(ImageViewsConfig)),
        make_config(ContrastConfig, pick(ContrastConfig)),
        make_config(TrainingConfig, {**TRAINING, "patience": None, **pick(TrainingConfig)}),
    )


def _train(
    encoder: nn.Module, images: Tensor, config: _Settings, out: Path, *, resume: bool
) -> None:
    sizes = config.encoder
    model = ContrastiveModel(
        encoder, dim=sizes.dim, hidden=sizes.head_hidden, head_dim=sizes.head_dim
    ).to(pick_device(config.training.device))
    objective = ImageViewsObjective(
        images,
        config.views,
        batch_size=config.training.batch_size,
        temperature=config.contrast.temperature,
        seed=config.training.seed,
    )
    TrainingLoop(model, objective, config.training, directory=out).run(resume=resume)


def _read(source: Any) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return images [n, C, H, W] by part, and labels where there are any."""
    if isinstance(source, str | Path):
        parts, labels = load_parts(Path(source))
    else:
        parts, labels = {"train": source}, None
    images = {part: _checked(part, np.asarray(values)) for part, values in parts.items()}
    shapes = {tuple(found.shape[1:]) for found in images.values()}
    if len(shapes) > 1:
        raise DataError(f"images of all parts must be of one shape; got {sorted(shapes)}.")
    return images, labels


def _checked(part: str, values: NDArray[Any]) -> Tensor:
    if values.ndim == 3:
        values = values[:, None]
    is_number = values.dtype == np.uint8 or values.dtype.kind == "f"
    if values.ndim != 4 or not is_number or values.size == 0:
        raise DataError(
            f"images of the part {part} must be bytes or floats [n, H, W] or [n, C, H, W]; got "
            f"{values.dtype} {list(values.shape)}."
        )
    if values.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(values))
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN is not either
        raise DataError(
            f"floats of images must lie in 0..1; those of the part {part} lie in {low:g}..{high:g}."
        )
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _hash(images: Tensor) -> str:
    digest = hashlib.sha256(f"{images.dtype} {list(images.shape)}".encode())
    digest.update(images.numpy().tobytes())
    return digest.hexdigest()


def _write(
    folder: Path,
    encoder: nn.Module,
    images: Mapping[str, Tensor],
    labels: dict[str, Any] | None,
    facts: Mapping[str, Any],
    started: float,
) -> Encoded:
    features = {part: encode_images(encoder, own).numpy() for part, own in images.items()}
    arrays = {"x" if part == "train" else "x_test": own for part, own in features.items()}
    for part, own in (labels or {}).items():
        arrays["y" if part == "train" else "y_test"] = own
    with atomic_file(folder / "features.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    info = {
        **facts,
        "image_shape": list(images["train"].shape[1:]),
        "rows": {part: len(own) for part, own in images.items()},
        "dim": features["train"].shape[1],
        **describe_making(started),
    }
    write_json(folder / MARKER, info)
    return Encoded(features, labels, encoder.eval(), info)
