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
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ensue.errors import ConfigError, RunError
from ensue.optim.clipping import clip_whole_gradient_
from ensue.optim.clippy import Clippy
from ensue.progress import Advance, note, track
from ensue.training.checkpoints import Checkpoints, Progress
from ensue.training.config import TrainingConfig
from ensue.training.log import TrainingLog, peak_memory_bytes
from ensue.training.objective import Batch, MultitaskObjective, Objective
from ensue.training.optimizers import growing_tables, make_optimizer, use_sparse_gradients_
from ensue.training.peers import NO_WISHES, Alone, Peers, Wishes
from ensue.training.prefetch import prefetch
from ensue.training.schedules import learning_rate
from ensue.training.spikes import SpikeWatch

SHOW_SECONDS = 0.5  # between looks at the loss
SOUND_STEPS = 200  # between checkpoints that a rollback may go back to
CHECKPOINT_SHARE = 0.05  # of the time, for checkpoints behind short epochs
WATCH = "spikes."  # before the names of what the watch remembers, in a checkpoint

Validate = Callable[[Any], dict[str, float]]
OnValidation = Callable[[int, dict[str, float]], None]


class DivergenceError(RunError):
    """The loss is not finite, or it leapt and did not come back."""


class StopTraining(Exception):  # noqa: N818  # a wish of the caller, no error
    """Raised by an `on_validation` to give the training up; it leaves the loop as it is."""


class TrainingLoop:
    """Trains `model` in DIR; checkpoints lie in DIR/checkpoints, the log is DIR/log.jsonl.

    Args:
        validate: returns metrics of the model; None trains all epochs and keeps the last weights.
        on_validation: is told the epoch and the metrics of each validation, after its checkpoint.
        peers: the other processes of the training, which all run this loop.
        checkpoints: None has them in files of this process.

    watch: what looks for spikes, and has those that are in no line of the log; None without it.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainingConfig,
        *,
        directory: Path,
        validate: Validate | None = None,
        on_validation: OnValidation | None = None,
        peers: Peers | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.model, self.objective, self.config = model, objective, config
        self.validate = validate
        self.on_validation = on_validation
        self.device = next(model.parameters()).device
        use_sparse_gradients_(model, config)
        self.optimizer = make_optimizer(model, config)
        self._tables = growing_tables(model, config)
        tasks = objective.tasks if isinstance(objective, MultitaskObjective) else ("loss",)
        is_watched = config.watch_spikes or config.rollback
        self.watch = SpikeWatch(model, tasks) if is_watched else None
        self.peers: Peers = peers or Alone()
        self.peers.divide_(self.optimizer)
        self.checkpoints = checkpoints or Checkpoints(directory / "checkpoints")
        self._directory = directory
        self._stop_requested = False
        self._saved = time.perf_counter()  # when the newest checkpoint was written
        self._save_seconds = 0.0  # that it took

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the end, load the best weights into the model, and return where it ended.

        Raises:
            DivergenceError: the loss is not finite, and no rollback is left.
            RunError: the checkpoint cannot be read.
            KeyboardInterrupt: Ctrl-C; a checkpoint was written first.
            StopTraining: on_validation raised it.
        """
        # Dropout draws from it; the caller's generators are its own concern.
        torch.manual_seed(self.peers.seed(self.config.seed))
        progress = Progress()
        if resume and self.checkpoints.exists("last"):
            progress = self._load("last")
        log = self._open_log(progress)
        total = self.config.epochs * self.objective.num_examples
        shown = self.peers.is_first
        with (
            self._interruptible(),
            track("train", total, unit="examples", enabled=shown) as advance,
        ):
            advance(self._done(progress))
            while progress.epoch <= self.config.epochs and not self._is_stale(progress):
                try:
                    self._train_epoch(progress, advance)
                except DivergenceError:
                    if not self._may_roll_back(progress):
                        raise
                    if log:
                        log.close()
                    done = self._done(progress)
                    progress = self._roll_back()
                    advance(self._done(progress) - done)
                    log = self._open_log(progress)
                else:
                    self._end_epoch(progress, log)
        if log:
            log.close()
        if progress.best_epoch:
            self.checkpoints.load_weights("best", self.model)
        self.model.eval()
        return progress

    def _done(self, progress: Progress) -> int:
        """Return the number of examples of all epochs so far."""
        return (progress.epoch - 1) * self.objective.num_examples + progress.examples

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
        started = shown = time.perf_counter()
        for batch in self._batches(progress):
            if self._may_roll_back(progress) and progress.steps % SOUND_STEPS == 0:
                progress.loss_sum = self._finite(loss_sum, progress)
                self._keep_if_sound(progress)
            size = self.objective.count(batch)
            self._set_learning_rate(progress)
            is_due = time.perf_counter() - self._saved >= self.config.checkpoint_seconds
            loss, agreed = self._step(batch, Wishes(self._stop_requested, is_due))
            loss_sum += loss.double() * size
            progress.batch += 1
            progress.steps += 1
            progress.examples += size
            now = time.perf_counter()
            if any(agreed) or now - shown >= SHOW_SECONDS:
                shown = now
                progress.loss_sum = self._finite(loss_sum, progress)
                progress.seconds = seconds_before + now - started
                advance(
                    progress.examples - examples_before,
                    epoch=progress.epoch,
                    loss=progress.loss_sum / progress.examples,
                )
                examples_before = progress.examples
            if any(agreed):
                self._save(progress)
            if agreed.stop:
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

    def _step(self, batch: Batch, wishes: Wishes = NO_WISHES) -> tuple[torch.Tensor, Wishes]:
        """Take one optimizer step; return the loss, still on the device, and what to do next."""
        batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
        use_bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use_bfloat16):
            loss = self.objective.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        own = loss.detach()[None]
        if isinstance(self.objective, MultitaskObjective):
            own = self.objective.seen_losses
        seen, agreed = self.peers.combine(own, wishes)
        if self.watch is not None:
            self.watch.observe(seen)
        if self.config.clip_norm is not None:
            read = [part for table in self._tables for part in table.read_rows()]
            clip_whole_gradient_(
                [*self.model.parameters(), *read],
                threshold=self.config.clip_norm,
                total=self.peers.gradient_norm(),
            )
        self.optimizer.step()
        for table in self._tables:
            table.apply_gradients_(self.optimizer.param_groups[0]["lr"])
        self.optimizer.zero_grad(set_to_none=False)  # cleared in place: see nn.embedding
        return seen.sum(), agreed

    def _set_learning_rate(self, progress: Progress) -> None:
        done = progress.epoch - 1 + progress.examples / self.objective.num_examples
        rate = learning_rate(self.config, done / self.config.epochs, progress.steps + 1)
        rate *= progress.rollback.get("rate_factor", 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _finite(self, loss_sum: torch.Tensor, progress: Progress) -> float:
        value = float(loss_sum)
        if not math.isfinite(value):
            raise DivergenceError(
                f"the loss must be finite; it is {value} in epoch {progress.epoch} near batch "
                f"{progress.batch}. The last good checkpoint is kept in {self.checkpoints.folder}; "
                "lower learning_rate or set clip_norm."
            )
        return value

    def _end_epoch(self, progress: Progress, log: TrainingLog | None) -> None:
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
            line |= self.optimizer.take_counts(self.peers.named(self.model))
        if self.watch is not None:
            line["spikes"] = self.watch.take()
        if progress.rollback:
            line["rollback"] = progress.rollback
        is_last = progress.epoch == self.config.epochs
        if self.validate and (is_last or progress.epoch % self.config.validate_every == 0):
            line["validation"] = self._validate(progress)
        if log:
            log.write(line)
        progress.epoch += 1
        progress.batch, progress.examples = 0, 0
        progress.loss_sum, progress.seconds = 0.0, 0.0
        progress.facts = {}
        if is_last or "validation" in line or self._may_save():
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
            self.checkpoints.save_weights("best", self.model)
        else:
            progress.stale += 1
        return metrics

    def _may_save(self) -> bool:
        """Return whether enough was trained since the last checkpoint to spend time on one."""
        if not self.peers.is_alone:
            return True  # clocks differ, and all have to save together
        due = min(self.config.checkpoint_seconds, self._save_seconds / CHECKPOINT_SHARE)
        return time.perf_counter() - self._saved >= due

    def _save(self, progress: Progress, name: str = "last") -> None:
        started = time.perf_counter()
        gathered = self.objective.state()
        if self.watch is not None:
            gathered = gathered | {f"{WATCH}{k}": v for k, v in self.watch.state().items()}
        self.checkpoints.save(name, self.model, self.optimizer, gathered, progress.as_json())
        if name == "last":
            self._saved = time.perf_counter()
            self._save_seconds = self._saved - started

    def _load(self, name: str) -> Progress:
        """Go back to the checkpoint of this name."""
        self.optimizer.state.clear()  # of before the first step there is none
        gathered, counters = self.checkpoints.load(name, self.model, self.optimizer)
        seen = {k.removeprefix(WATCH): v for k, v in gathered.items() if k.startswith(WATCH)}
        if self.watch is not None and seen:
            self.watch.load_state(seen)
        self.objective.load_state({k: v for k, v in gathered.items() if not k.startswith(WATCH)})
        return Progress(**counters)

    def _open_log(self, progress: Progress) -> TrainingLog | None:
        if not self.peers.is_first:
            return None
        return TrainingLog(
            self._directory, num_epochs=progress.epoch - 1, tensorboard=self.config.tensorboard
        )

    def _may_roll_back(self, progress: Progress) -> bool:
        return self.config.rollback and not progress.rollback

    def _keep_if_sound(self, progress: Progress) -> None:
        """Write the checkpoint that a rollback goes back to, unless a loss is up.

        It is due after so many steps, not seconds: a rollback gives the same weights every time.
        """
        assert self.watch is not None
        self.watch.look()
        step = self.watch.detector.diverged_step
        if step is not None:
            raise DivergenceError(f"a loss must come back; one leapt at step {step} and did not.")
        if self.watch.detector.is_calm:
            self._save(progress, "sound")
            if progress.best_epoch:
                self.checkpoints.copy("best", "sound-best")

    def _roll_back(self) -> Progress:
        """Go back to the last sound checkpoint, as if resumed from it at a lower rate."""
        assert self.watch is not None
        self.watch.look()
        step = self.watch.detector.diverged_step
        progress = self._load("sound")
        if progress.best_epoch:
            self.checkpoints.copy("sound-best", "best")
        factor = self.config.rollback_factor
        progress.rollback = {"from_step": step, "to_step": progress.steps, "rate_factor": factor}
        note(
            f"diverged at step {step}: back to step {progress.steps}, "
            f"and on with {factor:g} of the learning rate"
        )
        return progress

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Turn Ctrl-C into a checkpoint and then a KeyboardInterrupt, between two steps."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return

        def request_stop(*_: object) -> None:
            self._stop_requested = True
            if self.peers.is_alone:  # others are told by whoever started them, once more perhaps
                signal.signal(signal.SIGINT, signal.default_int_handler)  # the next stops at once

        before = signal.signal(signal.SIGINT, request_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


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
