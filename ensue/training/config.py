"""Settings of the training loop, the same for every model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ensue.config import Config
from ensue.errors import ConfigError
from ensue.losses.papk import PapkConfig
from ensue.optim.clippy import DirectionName, RuleName


class TrainingConfig(Config):
    """How a model is trained.

    epochs: at most this many passes; fewer when early stopping ends the run.
    papk: train on pAp@k in place of the loss of the model; {} for its defaults (`PapkConfig`).
        The setting loss=papk is the same, of every model.
    patience: stop after this many validations without a better value of `metric`; None never stops.
    metric: what validation compares, larger is better ("map", "ndcg@10", ...).
    validate_every: epochs between validations.
    decay: whether the learning rate stays or falls to zero over all `epochs`: line or cosine.
    warmup_steps: over which the learning rate rises to its value.
    weight_decay: L2 added to the gradient (coupled), as in the published programs.
    optimizer: "adam" updates every row at every step; "lazy_adam" only rows with a gradient: faster
        on very large tables, but not the same numbers (momentum and decay of the other rows wait).
        "adagrad" passes over rows without a gradient too: without weight_decay they would not move.
        "clippy" is Adagrad whose steps are shrunk where they are large for the weights, tensor by
        tensor; embedding tables are left to plain Adagrad, as in the paper.
    clip_rule: of "clippy", what a step may be: "clippy"; "gc", "agc" and "lamb", the rules it was
        compared with; "none".
    clip_relative, clip_absolute: of the rule "clippy": a weight w moves by clip_relative |w| +
        clip_absolute at most.
    clip_threshold: of the other rules, which have no default: the largest norm of a tensor's
        gradient ("gc"), the same over the norm of a row's weights ("agc"), or the norm of a step
        over learning_rate |w| ("lamb").
    clip_direction: of "clippy", what is shrunk: a step of Adagrad, of Adagrad with the squares
        before the current one alone ("delayed_adagrad"), or of Adam.
    clip_norm: largest norm of the whole gradient; None does not clip.
    precision: "bfloat16" runs forward and backward in bfloat16; weights stay float32.
    watch_spikes: log where the loss of a task rose far above what it had been, and the tensor whose
        gradient rose first; each step reads all gradients once more.
    rollback: when the training diverges, go back once to the last checkpoint of a sound state, and
        on from there with the learning rate times rollback_factor; it watches spikes too.
    checkpoint_seconds: time between checkpoints inside an epoch. Each epoch that is validated ends
        with one, and each other one whose checkpoint takes a twentieth of the time at most.
    device: "auto" is the GPU where there is one.
    prefetch: batches made ahead on a thread; 0 makes each when it is due. The numbers are the same.
    tensorboard: also write event files for TensorBoard (extra "track").
    """

    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    decay: Literal["none", "linear", "cosine"] = "none"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=1e-6, ge=0)
    optimizer: Literal["adam", "lazy_adam", "adagrad", "clippy"] = "adam"
    clip_rule: RuleName = "clippy"
    clip_relative: float = Field(default=0.5, ge=0)
    clip_absolute: float = Field(default=0.01, ge=0)
    clip_threshold: float | None = Field(default=None, gt=0)
    clip_direction: DirectionName = "adagrad"
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    watch_spikes: bool = False
    rollback: bool = False
    rollback_factor: float = Field(default=0.5, gt=0, lt=1)
    papk: PapkConfig | None = None
    patience: int | None = Field(default=5, ge=1)
    metric: str = "map"
    validate_every: int = Field(default=1, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    prefetch: int = Field(default=0, ge=0)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _check_that_all_is_read(self) -> TrainingConfig:
        """Refuse a setting that would change nothing, and a rule without its threshold."""
        has_bound = self.optimizer == "clippy" and self.clip_rule == "clippy"
        has_threshold = self.optimizer == "clippy" and self.clip_rule in ("gc", "agc", "lamb")
        read = {
            "clip_rule": (self.optimizer == "clippy", "optimizer='clippy'"),
            "clip_direction": (self.optimizer == "clippy", "optimizer='clippy'"),
            "clip_relative": (has_bound, "optimizer='clippy' and clip_rule='clippy'"),
            "clip_absolute": (has_bound, "optimizer='clippy' and clip_rule='clippy'"),
            "clip_threshold": (
                has_threshold,
                "optimizer='clippy' and a clip_rule of 'gc', 'agc' or 'lamb'",
            ),
            "rollback_factor": (self.rollback, "rollback=true"),
        }
        for name, (is_read, where) in read.items():
            value = getattr(self, name)
            if not is_read and value != type(self).model_fields[name].default:
                raise ConfigError(f"{name} is read with {where} only; got {name}={value!r}.")
        if has_threshold and self.clip_threshold is None:
            raise ConfigError(f"clip_rule={self.clip_rule!r} needs clip_threshold; got none.")
        return self


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes; a model's own loss takes the place of that on pAp@k.

    >>> override({"loss": "papk", "papk": {"k": 5}, "dim": 8}, {"loss": "bce"})
    {'loss': 'bce', 'dim': 8}
    """
    changed = {**settings, **changes}
    if changes.get("loss", "papk") != "papk" and "papk" not in changes:
        changed.pop("papk", None)
    return changed
