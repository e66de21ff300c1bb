"""Rows in memory that an evaluator can read: what `RankingRows` asks for and no more."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingSchema, Task

SCHEMA = RankingSchema(
    (
        RankingColumn("user", "categorical", 40, "user"),
        RankingColumn("day", "categorical", 3, "day"),
        RankingColumn("age", "numeric", 1),
    ),
    (Task("click", "binary"), Task("time", "regression")),
)


class Rows:
    """Random rows; `numbers` holds good predictions for both tasks."""

    schema = SCHEMA

    def __init__(self, num_rows: int = 600, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.codes = np.column_stack([rng.integers(0, 41, num_rows), rng.integers(0, 4, num_rows)])
        click, time = rng.random(num_rows) < 0.4, rng.normal(5, 1, num_rows)
        labels = np.column_stack([click, time]).astype(np.float32)
        noise = rng.normal(size=labels.shape).astype(np.float32)
        self.numbers = labels + noise
        labels[::7, 1] = np.nan
        self.labels = labels
        self.weights = (rng.random(labels.shape) + 0.5).astype(np.float32)
        self.counts = {"user": np.arange(41)[::-1].copy(), "day": np.array([4, 10, 30, 20])}

    def rows(self, index: slice, *, as_ids: bool = False) -> RankingBatch:
        codes = torch.from_numpy(self.codes[index])
        return RankingBatch(
            codes + 1000 if as_ids else codes,
            (),
            torch.from_numpy(self.numbers[index]),
            (),
            torch.from_numpy(self.labels[index]),
            torch.from_numpy(self.weights[index]),
        )

    def train_counts(self, vocabulary: str) -> np.ndarray:
        return self.counts[vocabulary]

    def values(self, vocabulary: str) -> pl.Series:
        return pl.Series([f"{vocabulary}{n}" for n in range(1, len(self.counts[vocabulary]))])


def known(batch: RankingBatch) -> torch.Tensor:
    """A model that reads its predictions from the numbers."""
    return batch.numbers
