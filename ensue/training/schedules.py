"""How the learning rate moves: up over the first steps, then held or brought down to zero."""

from __future__ import annotations

import math

from ensue.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, done: float, step: int) -> float:
    """Return the learning rate of a step.

    Args:
        done: the share of all epochs that is done, in [0, 1].
        step: the number of the step in the whole training, from 1.

    >>> learning_rate(TrainingConfig(learning_rate=1.0, decay="linear"), done=0.25, step=7)
    0.75
    >>> learning_rate(TrainingConfig(learning_rate=1.0, warmup_steps=4), done=0.0, step=1)
    0.25
    """
    factor = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.decay == "linear":
        factor *= 1.0 - done
    elif config.decay == "cosine":
        factor *= 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * factor
