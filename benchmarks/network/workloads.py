"""Logs for benchmarks of distributed training, and the sizes of the models on them.

"many": 200 columns with several values, 1 to 9 of each and 5 in the mean, so 1,000 a row; 512 rows
a worker, in which about 150,000 of the 512,000 values are distinct, since values follow Zipf's law
with exponent 1.16 over 20,000 values a column. "criteo": the 26 columns of Criteo's challenge, of
100,000 values at most and one in each row, exponent 1, and 13 numbers; 2,048 rows a worker.

Labels come from a planted factorization machine: each value has a weight and a vector of two
numbers, drawn by a hash of its id. With an angle they are a mixture of two such machines, and a
stream whose angle grows is one whose truth drifts. A batch depends on (seed, rank, step) alone, and
every program gets the same. Imports NumPy and PyTorch alone.

Shapes: B rows, F columns, S values of a batch, K numbers, V values of all columns.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# fmt: off
_VALUES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on
CRITEO_SIZES = tuple(min(size, 100_000) for size in _VALUES)
MANY_SIZES = (20_000,) * 200
SPREAD = 2_654_435_761  # prime: value r of a column is number r * SPREAD modulo its size
PAIR_WIDTH = 2  # of the planted vectors
START = 0.01  # the first vectors are uniform in [-START, START)
BIAS, OF_LINEAR, OF_PAIRS, OF_NUMBERS = -1.0, 1.0, 0.7, 0.5  # of a planted logit


class Workload(NamedTuple):
    """A log and a model on it.

    model: "lr", "fm", "deepfm" or "dnn". sizes: values of each column. exponent: of Zipf's law.
    mean_length: values in a column of a row. dim: width of the vectors. batch: rows a worker.
    """

    model: str
    sizes: tuple[int, ...]
    exponent: float
    mean_length: int
    numbers: int
    dim: int
    hidden: tuple[int, ...]
    batch: int

    @property
    def width(self) -> int:
        """The numbers of a row of the table: a weight, a vector, or a weight and a vector."""
        return self.dim + (self.model != "dnn")

    @property
    def num_rows(self) -> int:
        """The rows of the table of all columns."""
        return sum(self.sizes)


_MANY = Workload("fm", MANY_SIZES, 1.16, 5, 0, 8, (), 512)
_CRITEO = Workload("deepfm", CRITEO_SIZES, 1.0, 1, 13, 16, (512, 256), 2048)
WORKLOADS = {
    "lr-many": _MANY._replace(model="lr", dim=0),
    "fm-many": _MANY,
    "deepfm-many": _MANY._replace(model="deepfm", hidden=(256, 128)),
    "dnn-many": _MANY._replace(model="dnn", hidden=(256, 128)),
    "deepfm-criteo": _CRITEO,
}


class Batch(NamedTuple):
    """Rows of a log.

    ids: [S] int64, rows of the table of all columns, row by row and column by column.
    lengths: [B, F] int32. numbers: [B, K] float32. labels: [B] float32.
    """

    ids: Tensor
    lengths: Tensor
    numbers: Tensor
    labels: Tensor


def make_batch(
    workload: Workload, rank: int, step: int, *, seed: int = 0, angle: float = 0.0
) -> Batch:
    """Return the rows that a worker reads in a step.

    Args:
        angle: of the planted machine between its two ends, in radians.
    """
    rng = np.random.default_rng([seed, rank, step])
    shape = (workload.batch, len(workload.sizes))
    if workload.mean_length == 1:
        lengths = np.ones(shape, np.int64)
    else:
        lengths = rng.integers(1, 2 * workload.mean_length, shape)
    ids = _draw(workload, lengths, rng)
    rows = np.repeat(np.arange(workload.batch), lengths.sum(axis=1))
    numbers = rng.standard_normal((workload.batch, workload.numbers), dtype=np.float32)
    logits = planted_logits(workload, ids, rows, numbers, angle)
    labels = rng.random(workload.batch) < 1 / (1 + np.exp(-logits))
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(lengths.astype(np.int32)),
        torch.from_numpy(numbers),
        torch.from_numpy(labels.astype(np.float32)),
    )


def planted_logits(
    workload: Workload, ids: Ints, rows: Ints, numbers: NDArray[np.float32], angle: float
) -> Floats:
    """Return the logits [B] of the labels; their parts have about unit variance before the gains.

    Args:
        ids, rows: [S], a value and the row it stands in.
    """
    size = workload.batch
    active = np.maximum(np.bincount(rows, minlength=size), 1)
    linear, *vectors = (
        np.bincount(rows, _planted(ids, place, angle), minlength=size) / np.sqrt(active)
        for place in range(1 + PAIR_WIDTH)
    )
    pairs = sum(vector**2 - 1 for vector in vectors) / np.sqrt(2 * PAIR_WIDTH)
    logits: Floats = BIAS + OF_LINEAR * linear + OF_PAIRS * pairs
    if workload.numbers:
        logits = logits + OF_NUMBERS * numbers.sum(axis=1) / np.sqrt(workload.numbers)
    return logits


def start_rows(workload: Workload, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the first rows [len(ids), width] of a table, by the ids alone: weights are zero."""
    rows = np.zeros((len(ids), workload.width))
    first = 0 if workload.model == "dnn" else 1
    for place in range(first, workload.width):
        rows[:, place] = START * hashed(ids.numpy(), 100 + place)
    return torch.from_numpy(rows).to(dtype)


def hashed(ids: Ints, place: int) -> Floats:
    """Return numbers uniform in [-1, 1) by (id, place) alone, after SplitMix64 (Steele, 2014)."""
    keys = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys += np.uint64((place + 1) * 0xD1B54A32D192ED03 % 2**64)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def _planted(ids: Ints, place: int, angle: float) -> Floats:
    """Return planted numbers [S] of unit variance."""
    values = hashed(ids, 2 * place)
    if angle:
        values = np.cos(angle) * values + np.sin(angle) * hashed(ids, 2 * place + 1)
    return np.sqrt(3.0) * values


def _draw(workload: Workload, lengths: Ints, rng: np.random.Generator) -> Ints:
    """Return the values [S] of rows with these lengths [B, F]."""
    columns = np.tile(np.arange(lengths.shape[1]), len(lengths))
    columns = np.repeat(columns, lengths.ravel())
    uniform = rng.random(len(columns))
    sizes = np.array(workload.sizes)
    ranks = np.empty(len(columns), np.int64)
    for size in set(workload.sizes):
        own = np.flatnonzero(sizes[columns] == size)
        ranks[own] = np.searchsorted(_zipf(size, workload.exponent), uniform[own], side="right")
    of_column = sizes[columns]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    found: Ints = offsets[columns] + np.minimum(ranks, of_column - 1) * SPREAD % of_column
    return found


@cache
def _zipf(size: int, exponent: float) -> Floats:
    weights = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -exponent)
    shares: Floats = weights / weights[-1]
    return shares
