"""The one training loop: epochs over an objective, with checkpoints, validation and early stopping.

New behavior is an `Objective` or an optimizer, never another loop. An interrupted run goes on from
its last checkpoint to the same weights, bit for bit, as one that never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ensue.errors import ConfigError, RunError
from ensue.models.base import Model
from ensue.optim.adagrad import Adagrad
from ensue.optim.clipping import clip_whole_gradient_
from ensue.optim.clippy import Clippy, Rule
from ensue.optim.lazy_adam import LazyAdam
from ensue.progress import Advance, track
from ensue.training.checkpoints import (
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from ensue.training.config import TrainingConfig
from ensue.training.log import TrainingLog, peak_memory_bytes
from ensue.training.objective import Batch, Objective
from ensue.training.prefetch import prefetch
from ensue.training.schedules import learning_rate

# Of models, where a name does not say "embedding": rows of items, or of values.
TABLES = {"ids", "table", "tables", "own_output", "item_bias", "output_bias"}
SHOW_SECONDS = 0.5  # between looks at the loss

Validate = Callable[[Model], dict[str, float]]
OnValidation = Callable[[int, dict[str, float]], None]


class StopTraining(Exception):  # noqa: N818  # a wish of the caller, no error
    """Raised by an `on_validation` to give the training up; it leaves the loop as it is."""


@dataclass
class Progress:
    """Where a training stands; stored in every checkpoint.

    epoch, batch: the next batch to train. steps: taken so far.
    loss_sum, examples, seconds: of the epoch so far.
    best_epoch, best_value: of the validation metric. stale: validations since then.
    facts: what the objective said before the epoch, for the log.
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

    def as_json(self) -> dict[str, Any]:
        """Return the counters without values JSON cannot hold."""
        counters = asdict(self)
        if not math.isfinite(self.best_value):
            del counters["best_value"]
        return counters


class TrainingLoop:
    """Trains `model` in DIR; checkpoints lie in DIR/checkpoints, the log is DIR/log.jsonl.

    Args:
        validate: returns metrics of the model; None trains all epochs and keeps the last weights.
        on_validation: is told the epoch and the metrics of each validation, after its checkpoint.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        config: TrainingConfig,
        *,
        directory: Path,
        validate: Validate | None = None,
        on_validation: OnValidation | None = None,
    ) -> None:
        self.model, self.objective, self.config = model, objective, config
        self.validate = validate
        self.on_validation = on_validation
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, config)
        self._checkpoints = directory / "checkpoints"
        self._directory = directory
        self._stop_requested = False

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the end, load the best weights into the model, and return where it ended.

        Raises:
            RunError: the loss is not finite, or the checkpoint cannot be read.
            KeyboardInterrupt: Ctrl-C; a checkpoint was written first.
            StopTraining: on_validation raised it.
        """
        torch.manual_seed(self.config.seed)  # dropout; the caller's generators are its own concern
        progress = Progress()
        last = self._checkpoints / "last.safetensors"
        if resume and last.is_file():
            gathered, counters = load_checkpoint(last, self.model, self.optimizer)
            self.objective.load_state(gathered)
            progress = Progress(**counters)
        log = TrainingLog(
            self._directory, num_epochs=progress.epoch - 1, tensorboard=self.config.tensorboard
        )
        total = self.config.epochs * self.objective.num_examples
        with self._interruptible(), track("train", total, unit="examples") as advance:
            advance((progress.epoch - 1) * self.objective.num_examples + progress.examples)
            while progress.epoch <= self.config.epochs and not self._is_stale(progress):
                self._train_epoch(progress, advance)
                self._end_epoch(progress, log)
        log.close()
        if progress.best_epoch:
            weights, _ = load_tensors(self._checkpoints / "best.safetensors")
            self.model.load_state_dict(weights)
        self.model.eval()
        return progress

    def _is_stale(self, progress: Progress) -> bool:
        return self.config.patience is not None and progress.stale >= self.config.patience

    def _train_epoch(self, progress: Progress, advance: Advance) -> None:
        """Train the rest of an epoch; checkpoint now and then, and before an interruption."""
        facts = self.objective.start_epoch(
            self.model, progress.epoch, is_resumed=progress.batch > 0
        )
        if progress.batch == 0:
            progress.facts = facts
        self.model.train()
        loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self.device)
        examples_before, seconds_before = progress.examples, progress.seconds
        started = saved = shown = time.perf_counter()
        for batch in self._batches(progress):
            size = self.objective.count(batch)
            self._set_learning_rate(progress)
            loss_sum += self._step(batch).double() * size
            progress.batch += 1
            progress.steps += 1
            progress.examples += size
            now = time.perf_counter()
            is_due = now - saved >= self.config.checkpoint_seconds
            if self._stop_requested or is_due or now - shown >= SHOW_SECONDS:
                shown = now
                progress.loss_sum = self._finite(loss_sum, progress)
                progress.seconds = seconds_before + now - started
                advance(
                    progress.examples - examples_before,
                    epoch=progress.epoch,
                    loss=progress.loss_sum / progress.examples,
                )
                examples_before = progress.examples
            if self._stop_requested or is_due:
                self._save(progress)
                saved = time.perf_counter()
            if self._stop_requested:
                raise KeyboardInterrupt
        progress.loss_sum = self._finite(loss_sum, progress)
        progress.seconds = seconds_before + time.perf_counter() - started
        advance(progress.examples - examples_before, epoch=progress.epoch)

    def _batches(self, progress: Progress) -> Iterator[Batch]:
        """Yield what is left of the epoch."""
        batches = self.objective.batches(progress.epoch, first=progress.batch)
        if not self.config.prefetch:
            yield from batches
            return
        with closing(prefetch(batches, self.config.prefetch)) as ahead:
            yield from ahead

    def _step(self, batch: Batch) -> torch.Tensor:
        """Take one optimizer step and return the loss, still on the device."""
        batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
        use_bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use_bfloat16):
            loss = self.objective.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm is not None:
            clip_whole_gradient_(self.model.parameters(), threshold=self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)  # cleared in place: see nn.embedding
        return loss.detach()

    def _set_learning_rate(self, progress: Progress) -> None:
        done = progress.epoch - 1 + progress.examples / self.objective.num_examples
        rate = learning_rate(self.config, done / self.config.epochs, progress.steps + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _finite(self, loss_sum: torch.Tensor, progress: Progress) -> float:
        value = float(loss_sum)
        if not math.isfinite(value):
            raise RunError(
                f"the loss must be finite; it is {value} in epoch {progress.epoch} near batch "
                f"{progress.batch}. The last good checkpoint is kept in {self._checkpoints}; "
                "lower learning_rate or set clip_norm."
            )
        return value

    def _end_epoch(self, progress: Progress, log: TrainingLog) -> None:
        """Validate, log the epoch, move to the next one, and checkpoint."""
        line: dict[str, Any] = {
            "epoch": progress.epoch,
            "loss": progress.loss_sum / progress.examples,
            "seconds": progress.seconds,
            "examples": progress.examples,
            "examples_per_s": progress.examples / max(progress.seconds, 1e-9),
            "peak_memory_bytes": peak_memory_bytes(self.device),
            **progress.facts,
            **self.objective.end_epoch(),
        }
        if isinstance(self.optimizer, Clippy):
            line |= self.optimizer.take_counts(self.model.named_parameters())
        is_last = progress.epoch == self.config.epochs
        if self.validate and (is_last or progress.epoch % self.config.validate_every == 0):
            line["validation"] = self._validate(progress)
        log.write(line)
        progress.epoch += 1
        progress.batch, progress.examples = 0, 0
        progress.loss_sum, progress.seconds = 0.0, 0.0
        progress.facts = {}
        self._save(progress)
        if self.on_validation and "validation" in line:
            self.on_validation(line["epoch"], line["validation"])

    def _validate(self, progress: Progress) -> dict[str, float]:
        """Return validation metrics; keep the weights when they are the best so far."""
        assert self.validate is not None
        self.model.eval()
        metrics = self.validate(self.model)
        if self.config.metric not in metrics:
            raise ConfigError(
                f"metric must be one of {sorted(metrics)}; got {self.config.metric!r}."
            )
        is_better = metrics[self.config.metric] > progress.best_value
        if is_better or self.objective.keeps_last:
            progress.best_value = metrics[self.config.metric]
            progress.best_epoch, progress.best_metrics = progress.epoch, metrics
            progress.stale = 0
            save_tensors(self._checkpoints / "best.safetensors", self.model.state_dict(), {})
        else:
            progress.stale += 1
        return metrics

    def _save(self, progress: Progress) -> None:
        path = self._checkpoints / "last.safetensors"
        gathered = self.objective.state()
        save_checkpoint(path, self.model, self.optimizer, gathered, progress.as_json())

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Turn Ctrl-C into a checkpoint and then a KeyboardInterrupt, between two steps."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return

        def request_stop(*_: object) -> None:
            self._stop_requested = True
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one stops at once

        before = signal.signal(signal.SIGINT, request_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def make_optimizer(model: Model, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer that the config names, over all parameters of the model."""
    parameters = list(model.parameters())
    if config.optimizer == "lazy_adam":
        return LazyAdam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.optimizer == "adagrad":
        return Adagrad(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.optimizer == "clippy":
        named = list(model.named_parameters())
        tables = [p for name, p in named if is_table(name)]
        others = [p for name, p in named if not is_table(name)]
        groups: list[dict[str, Any]]
        groups = [{"params": others}, {"params": tables, "rule": "none"}]
        return Clippy(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            rule=Rule(relative=config.clip_relative, absolute=config.clip_absolute),
            weight_decay=config.weight_decay,
        )
    return torch.optim.Adam(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def is_table(name: str) -> bool:
    """Return whether the parameter of this name has a row for each item, user or value."""
    return "embedding" in name or not TABLES.isdisjoint(name.split("."))


def pick_device(name: str) -> torch.device:
    """Return the device that a config names.

    Raises:
        ConfigError: torch does not know the device or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device must be usable here; got {name!r}: {reason}") from None
