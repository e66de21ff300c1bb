"""Checkpoints: all that a run needs to go on as if it had never stopped, in one safetensors file.

The file holds the model's state ("model.NAME"), the optimizer's state of each parameter
("optimizer.NAME.KEY"), what the objective gathers ("objective.NAME"), the state of the random
generators, and the loop's counters as JSON metadata. It is written beside its place and renamed
into it: a checkpoint is whole or absent.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ensue.errors import RunError
from ensue.files import atomic_file


@dataclass
class Progress:
    """Where a training stands; stored in every checkpoint.

    epoch, batch: the next batch to train. steps: taken so far.
    loss_sum, examples, seconds: of the epoch so far.
    best_epoch, best_value: of the validation metric. stale: validations since then.
    facts: what the objective said before the epoch, for the log.
    rollback: the step that diverged, the step gone back to, and what the learning rate is
        multiplied by since; empty before one.
    """

    epoch: int = 1
    batch: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    examples: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_value: float = -math.inf
    best_metrics: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    rollback: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the counters without values JSON cannot hold."""
        counters = asdict(self)
        if not math.isfinite(self.best_value):
            del counters["best_value"]
        return counters


class Checkpoints:
    """The checkpoints of a training in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exists(self, name: str) -> bool:
        """Return whether there is a checkpoint of this name."""
        return self._path(name).is_file()

    def save(
        self,
        name: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        gathered: dict[str, Tensor],
        counters: dict[str, Any],
    ) -> None:
        """Write the state of all that a training has, in the place of the last one of this name.

        Args:
            gathered: by the objective.
            counters: JSON.
        """
        tensors = training_state(model, optimizer, gathered)
        save_tensors(self._path(name), tensors, {"counters": json.dumps(counters)})

    def load(
        self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Restore what `save` wrote, in place; return what was gathered, and the counters.

        Raises:
            RunError: the file is damaged or belongs to another model.
        """
        tensors, metadata = load_tensors(self._path(name))
        restore_training(tensors, model, optimizer)
        stored: dict[str, Any] = json.loads(metadata["counters"])
        return under(tensors, "objective."), stored

    def save_weights(self, name: str, model: nn.Module) -> None:
        """Write the state of the model alone."""
        save_tensors(self._path(name), model.state_dict(), {})

    def load_weights(self, name: str, model: nn.Module) -> None:
        """Restore what `save_weights` wrote."""
        weights, _ = load_tensors(self._path(name))
        model.load_state_dict(weights)

    def copy(self, name: str, to: str) -> None:
        """Have a checkpoint by another name too."""
        with atomic_file(self._path(to)) as temporary:
            shutil.copyfile(self._path(name), temporary)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, gathered: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by name."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"objective.{name}": value for name, value in gathered.items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    tensors["generator.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore_training(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Set model, optimizer and generators to the `training_state`."""
    model.load_state_dict(under(tensors, "model."))
    for name, parameter in model.named_parameters():
        state = under(tensors, f"optimizer.{name}.")
        if state:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in state.items()
            }
    torch.set_rng_state(tensors["generator.cpu"])
    if torch.cuda.is_available() and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"])


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    # safetensors refuses tensors that share memory or are not contiguous
    copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(copies, temporary, metadata=metadata)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        RunError: the file is missing or damaged.
    """
    if not path.is_file():
        raise RunError(f"a run must hold {path.name}; {path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise RunError(
            f"{path} must be a whole safetensors file; reading it failed with {error}. "
            "Copy it again, or train again."
        ) from None


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
