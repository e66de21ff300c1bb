"""One training of codes with a direction of time, on some of the visits.

```
DIR/checkpoints, DIR/log.jsonl   of the training loop
DIR/fitted.safetensors           what came out; a training that has it is not repeated
```
Shapes: N visits, n of them, P pairs, D width of the codes, K directions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.config import make_config
from ensue.data.longitudinal.measurements import (
    BagRows,
    ItemBags,
    Measurements,
    NumberRows,
    Numbers,
    Rows,
    Scale,
)
from ensue.data.longitudinal.visits import Pairs, Visits, entity_folds
from ensue.errors import RunError
from ensue.losses.longitudinal import split_codes, unit_differences
from ensue.models.representation.bodies import BagsBody, Body, NumbersBody
from ensue.models.representation.lssl import LSSL, LSSLConfig
from ensue.training.checkpoints import load_tensors, save_tensors, under
from ensue.training.config import TrainingConfig
from ensue.training.longitudinal import PairsConfig, PairsObjective
from ensue.training.loop import TrainingLoop, pick_device

Integers = NDArray[np.int64]
FITTED = "fitted.safetensors"
ENCODE_BYTES = 1 << 26  # of measurements at a time
PAIRS_AT_ONCE = 1 << 16
VALIDATION_METRIC = "negative_loss"


@dataclass(frozen=True)
class FitSettings:
    """All that decides what a training comes to, beside the visits."""

    lssl: LSSLConfig
    pairs: PairsConfig
    training: TrainingConfig

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {
            "model": self.lssl.model_dump(mode="json"),
            "pairs": self.pairs.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Fitted:
    """A trained model, and the scale of what it reads.

    scale: None of bags of items.
    center, spread: mean and standard deviation of the coordinate over the visits trained on.
    """

    model: LSSL
    scale: Scale | None
    center: float
    spread: float

    def rows(self, measured: Measurements) -> Rows:
        """Return measurements as the model reads them."""
        return ready_rows(measured, self.scale, _device_of(self.model))

    def codes(self, measured: Measurements) -> Tensor:
        """Return the codes of all measurements [N, D]."""
        return encode(self.model, self.rows(measured))

    def split(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return coordinates [N, K], the first one at mean 0 and deviation 1 in training, and the
        rest of the codes [N, D].
        """
        along, rest = split_codes(codes, self.model.directions.cpu())
        along[:, 0] = (along[:, 0] - self.center) / self.spread
        return along, rest

    def save(self, path: Path) -> None:
        """Write all of it."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.scale is not None:
            tensors |= {"scale.mean": self.scale.mean, "scale.deviation": self.scale.deviation}
        facts = {
            "config": self.model.config.model_dump(mode="json"),
            "measured": self.model.measured,
            "center": self.center,
            "spread": self.spread,
        }
        save_tensors(path, tensors, {"facts": json.dumps(facts)})


def load_fitted(path: Path) -> Fitted:
    """Return what `Fitted.save` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    tensors, metadata = load_tensors(path)
    facts = json.loads(metadata["facts"])
    model = build_model(make_config(LSSLConfig, facts["config"]), facts["measured"])
    model.load_state_dict(under(tensors, "model."))
    model.eval()
    scale = under(tensors, "scale.")
    return Fitted(model, Scale(**scale) if scale else None, facts["center"], facts["spread"])


def fit(
    visits: Visits, rows: Integers, settings: FitSettings, *, directory: Path, resume: bool = False
) -> Fitted:
    """Train on the visits `rows`, which ascend, and return what came out.

    Raises:
        DataError: no two visits of an entity lie far enough apart.
        RunError: the loss is not finite, or all codes are the same.
    """
    done = directory / FITTED
    if resume and done.is_file():
        return load_fitted(done)
    with torch.random.fork_rng():
        torch.manual_seed(settings.training.seed)
        found = _fit(visits, rows, settings, directory, resume=resume)
    found.save(done)
    return found


def _fit(
    visits: Visits, rows: Integers, settings: FitSettings, directory: Path, *, resume: bool
) -> Fitted:
    measured, min_gap = visits.measured, settings.pairs.min_gap
    device = pick_device(settings.training.device)
    scale = Scale.of(measured, rows) if isinstance(measured, Numbers) else None
    model = build_model(settings.lssl, describe_measured(measured)).to(device)
    ready = ready_rows(measured, scale, device)
    kept, aside = _set_aside(visits, rows, settings)
    pairs = Pairs(visits, min_gap=min_gap, rows=kept)
    size = settings.training.batch_size
    objective = PairsObjective(
        ready, pairs, settings.pairs, batch_size=size, seed=settings.training.seed
    )
    if settings.lssl.method == "pca":
        fit_components_(model, ready, rows)
    else:
        validate = None
        if len(aside):
            held = Pairs(visits, min_gap=min_gap, rows=aside)
            own = PairsObjective(ready, held, settings.pairs, batch_size=size, seed=0)
            validate = _validation(own)
        TrainingLoop(
            model, objective, settings.training, directory=directory, validate=validate
        ).run(resume=resume)
    model.eval()
    return set_directions(model, ready, Pairs(visits, min_gap=min_gap, rows=rows), rows, scale)


def build_model(config: LSSLConfig, measured: dict[str, Any]) -> LSSL:
    """Return a new model of measurements as `describe_measured` describes them."""
    hidden = () if config.method == "pca" else config.hidden
    body: Body
    if "num_items" in measured:
        body = BagsBody(
            measured["num_items"], config.dim, num_codes=config.num_codes, hidden=hidden
        )
    else:
        body = NumbersBody(
            measured["shape"],
            config.dim,
            num_codes=config.num_codes,
            hidden=hidden,
            channels=() if config.method == "pca" else config.channels,
        )
    return LSSL(config, body, measured=measured)


def describe_measured(measured: Measurements) -> dict[str, Any]:
    """Return what a model has to know of measurements: their shape, or how many items there are."""
    if isinstance(measured, ItemBags):
        return {"num_items": len(measured.names)}
    assert isinstance(measured, Numbers)
    return {"shape": list(measured.shape)}


def ready_rows(measured: Measurements, scale: Scale | None, device: torch.device) -> Rows:
    """Return measurements on a device, numbers at the scale."""
    if isinstance(measured, ItemBags):
        items, offsets = (
            torch.from_numpy(a).to(device) for a in (measured.items, measured.offsets)
        )
        return BagRows(items, offsets)
    assert isinstance(measured, Numbers)
    assert scale is not None
    return NumberRows(scale.apply(measured).to(device))


@torch.no_grad()
def encode(model: LSSL, ready: Rows) -> Tensor:
    """Return the codes of all rows [N, D], on the CPU."""
    shape = model.measured.get("shape", [model.measured.get("num_items")])
    at_once = max(1, ENCODE_BYTES // (4 * int(np.prod(shape))))
    numbers = torch.arange(len(ready), device=_device_of(model))
    return torch.cat(
        [model.encode(ready.take(part)).cpu() for part in torch.split(numbers, at_once)]
    )


@torch.no_grad()
def reconstruction_error(model: LSSL, ready: Rows, codes: Tensor, rows: Integers) -> float:
    """Return the mean error of decoding the codes of `rows` [n]."""
    device, total = _device_of(model), 0.0
    for part in torch.split(torch.from_numpy(rows), 1024):
        shares = torch.full((len(part),), 1.0 / len(rows), device=device)
        x = ready.take(part.to(device))
        total += float(model.body.error(codes[part].to(device), x, shares))
    return total


@torch.no_grad()
def set_directions(
    model: LSSL, ready: Rows, pairs: Pairs, rows: Integers, scale: Scale | None
) -> Fitted:
    """Set the directions by all pairs of the visits trained on, and return the whole.

    Raises:
        RunError: all codes are the same.
    """
    codes = encode(model, ready).double()
    dim = codes.shape[1]
    mean = torch.zeros(dim, dtype=torch.float64)
    moment = torch.zeros(dim, dim, dtype=torch.float64)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        index = pairs.gather(np.arange(start, min(start + PAIRS_AT_ONCE, len(pairs))))
        first, second = torch.from_numpy(index).unbind(1)
        differences = unit_differences(codes[first], codes[second])
        mean += differences.sum(dim=0)
        moment += differences.T @ differences
    mean, moment = mean / len(pairs), moment / len(pairs)
    device = _device_of(model)
    model.set_directions_(mean.float().to(device), moment.float().to(device))
    along = codes[torch.from_numpy(rows)] @ model.directions[0].double().cpu()
    spread = float(along.std(correction=0))
    if not spread > 0:
        raise RunError(
            "codes must differ between visits; all that were trained on have the same coordinate. "
            "Lower weight or learning_rate."
        )
    return Fitted(model, scale, float(along.mean()), spread)


@torch.no_grad()
def fit_components_(model: LSSL, ready: Rows, rows: Integers) -> None:
    """Set encoder and decoder to the principal components of numbers; missing ones count as 0."""
    body = model.body
    assert isinstance(body, NumbersBody)
    device = _device_of(model)
    taken = ready.take(torch.from_numpy(rows).to(device))
    assert isinstance(taken, Tensor)
    x = torch.nan_to_num(taken).flatten(1).double()
    center = x.mean(dim=0)
    dim = model.config.dim
    components = torch.zeros(dim, x.shape[1], dtype=torch.float64, device=device)
    found = torch.linalg.svd(x - center, full_matrices=False).Vh[:dim]
    components[: len(found)] = found  # there are no more than features
    body.encoder.code.weight.copy_(components)
    body.encoder.code.bias.copy_(-components @ center)
    body.decoder.out.weight.copy_(components.T)
    body.decoder.out.bias.copy_(center)


def _set_aside(visits: Visits, rows: Integers, settings: FitSettings) -> tuple[Integers, Integers]:
    """Return the visits to train on, and those of the entities that validate."""
    share = settings.pairs.validation_share
    if share == 0 or settings.lssl.method == "pca":
        return rows, rows[:0]
    present, number = np.unique(visits.entities[rows], return_inverse=True)
    num_folds = max(2, round(1 / share))
    is_aside = entity_folds(len(present), num_folds, seed=settings.training.seed)[number] == 0
    return rows[~is_aside], rows[is_aside]


def _validation(objective: PairsObjective) -> Any:
    """Return what measures a model by its mean loss, larger being better; it draws no numbers."""

    @torch.no_grad()
    def validate(model: LSSL) -> dict[str, float]:
        total = 0.0
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for batch in objective.batches(1):
                moved = [tensor.to(_device_of(model)) for tensor in batch]
                total += float(objective.loss(model, moved)) * objective.count(batch)
        return {VALIDATION_METRIC: -total / objective.num_examples}

    return validate


def _device_of(model: LSSL) -> torch.device:
    return model.directions.device
