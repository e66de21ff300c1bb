"""A stream of ranking rows whose truth moves: the public testbed of training stability.

After Tang et al., "Improving Training Stability for Multitask Ranking Models in Recommender
Systems", KDD 2023, arXiv:2302.09178, whose data are private: many features whose scales drift,
several tasks that share what they are about, and a truth that jumps. The labels come from a random
teacher of one hidden layer; every `jump_every` steps a share of its output weights is drawn anew.
The teacher reads the features before their scales, so that a drift changes no label.
A batch depends on (seed, step, draw) alone.
Shapes: B rows, D dense features, H hidden units of the teacher, M tasks, C categorical columns of V
values each.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ensue.config import Config
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingSchema, Task

Floats = NDArray[np.float32]

# What a generator is for; the seed and one of these begin its key.
TEACHER, JUMP, ROWS = range(3)
HIDDEN = 32
GAIN = 0.7  # standard deviation of what goes into the teacher's tanh
SECOND_MOMENT = 0.27  # of tanh of a normal number of that deviation
WEIGHT_OF_CODES = 0.2  # standard deviation of what a value adds to a logit


class StreamConfig(Config):
    """What a stream is.

    num_binary, num_regression: tasks.
    num_dense, num_categorical: features; with the defaults 200 in all.
    num_values: of each categorical feature.
    jump_every: steps between jumps of the teacher. jump: the share of its output weights' variance
        that is drawn anew in one.
    drift: largest size of the logarithm of a feature's scale. drift_steps: of a whole swing, of the
        slowest feature; the fastest has half of them.
    signal: standard deviation of a logit. noise: that is added to the value of a regression task,
        whose own deviation is 1.
    """

    num_binary: int = Field(default=4, ge=1)
    num_regression: int = Field(default=2, ge=0)
    num_dense: int = Field(default=192, ge=1)
    num_categorical: int = Field(default=8, ge=0)
    num_values: int = Field(default=50, ge=1)
    jump_every: int = Field(default=100, ge=1)
    jump: float = Field(default=0.2, ge=0, le=1)
    drift: float = Field(default=0.7, ge=0)
    drift_steps: int = Field(default=400, ge=2)
    signal: float = Field(default=3.0, gt=0)
    noise: float = Field(default=0.5, ge=0)


class SyntheticStream:
    """The rows of each step, made when they are asked for."""

    def __init__(self, config: StreamConfig | None = None, *, seed: int = 0) -> None:
        self.config = config = config or StreamConfig()
        self.seed = seed
        self.schema = _schema(config)
        rng = self._rng(TEACHER)
        num_tasks = len(self.schema.tasks)
        size = (config.num_dense, HIDDEN)
        self._hidden = rng.standard_normal(size, np.float32) * np.float32(GAIN / size[0] ** 0.5)
        shape = (config.num_categorical, config.num_values + 1, num_tasks)
        self._of_codes = rng.standard_normal(shape, np.float32) * np.float32(WEIGHT_OF_CODES)
        self._of_codes[:, 0] = 0
        self._phase = rng.random(config.num_dense)
        self._swing = config.drift_steps * (0.5 + 0.5 * rng.random(config.num_dense))
        self._first = self._new_weights(rng)
        self._known: tuple[int, Floats] = (0, self._first)

    def batch(self, step: int, size: int, *, draw: int = 0) -> RankingBatch:
        """Return `size` rows of a step, from 0; other draws are other rows of the same truth."""
        config = self.config
        rng = self._rng(ROWS, step, draw)
        latent = rng.standard_normal((size, config.num_dense), np.float32)
        codes = rng.integers(1, config.num_values + 1, (size, config.num_categorical))
        truth = self.truth(step, latent, codes)
        labels = np.empty_like(truth)
        binary = slice(None, config.num_binary)
        chance = 1 / (1 + np.exp(-config.signal * truth[:, binary]))
        labels[:, binary] = rng.random(chance.shape, np.float32) < chance
        rest = truth[:, config.num_binary :]
        noise = rng.standard_normal(rest.shape, np.float32) * np.float32(config.noise)
        labels[:, config.num_binary :] = rest + noise
        return RankingBatch(
            codes=torch.from_numpy(codes),
            bags=(),
            numbers=torch.empty(size, 0),
            vectors=(torch.from_numpy(latent * self.scales(step)),),
            labels=torch.from_numpy(labels),
            weights=torch.ones(labels.shape),
        )

    def truth(self, step: int, latent: Floats, codes: NDArray[np.int64]) -> Floats:
        """Return the teacher's values [B, M], of deviation about 1, of rows before their scales."""
        hidden = np.tanh(latent @ self._hidden)
        values = hidden @ self.weights(step)
        for column in range(self.config.num_categorical):
            values += self._of_codes[column, codes[:, column]]
        spread = 1 + self.config.num_categorical * WEIGHT_OF_CODES**2
        return values / np.float32(spread**0.5)

    def weights(self, step: int) -> Floats:
        """Return the teacher's output weights [H, M] at a step."""
        number = step // self.config.jump_every
        known, weights = self._known
        if known > number:
            known, weights = 0, self._first
        for jump in range(known + 1, number + 1):
            kept, share = (1 - self.config.jump) ** 0.5, self.config.jump**0.5
            drawn = self._new_weights(self._rng(JUMP, jump))
            weights = np.float32(kept) * weights + np.float32(share) * drawn
        self._known = (number, weights)
        return weights

    def scales(self, step: int) -> Floats:
        """Return the scale of each dense feature [D] at a step."""
        angle = 2 * np.pi * (step / self._swing + self._phase)
        return np.exp(self.config.drift * np.sin(angle)).astype(np.float32)

    def _new_weights(self, rng: np.random.Generator) -> Floats:
        """Return weights [H, M] that share half of their variance between the tasks."""
        num_tasks = len(self.schema.tasks)
        shared = rng.standard_normal((HIDDEN, 1), np.float32)
        own = rng.standard_normal((HIDDEN, num_tasks), np.float32)
        return (shared + own) * np.float32((0.5 / HIDDEN / SECOND_MOMENT) ** 0.5)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])


def _schema(config: StreamConfig) -> RankingSchema:
    codes = [f"code_{n}" for n in range(1, config.num_categorical + 1)]
    columns = [RankingColumn(name, "categorical", config.num_values, name) for name in codes]
    columns.append(RankingColumn("dense", "vector", config.num_dense))
    tasks = [Task(f"binary_{n}", "binary") for n in range(1, config.num_binary + 1)]
    tasks += [Task(f"value_{n}", "regression") for n in range(1, config.num_regression + 1)]
    return RankingSchema(tuple(columns), tuple(tasks))
