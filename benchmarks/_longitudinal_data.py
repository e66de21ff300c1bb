"""Visits with a known answer, and those of data sets that are not part of Ensue.

Shapes: E entities, V visits of each, N visits, F features.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks._retrieval_data import ml_1m_tables
from ensue.data.dataset import Dataset
from ensue.data.longitudinal.measurements import ItemBags
from ensue.data.longitudinal.tables import read_visits
from ensue.data.longitudinal.visits import Visits
from ensue.data.prepare import prepare

NUM_FEATURES, NUM_OTHERS = 32, 4
SENSORS = [f"sensor {number}" for number in range(1, 22)]


@dataclass(frozen=True)
class Planted:
    """Visits, the factor that grows with time [N], and those that stay [N, 4]."""

    visits: Visits
    factor: NDArray[np.float64]
    others: NDArray[np.float64]


def planted_visits(
    world: int, seed: int, gain: float, *, num_entities: int = 700, num_visits: int = 4
) -> Planted:
    """Return visits x = tanh([a, s] W1) W2 + 0.2 noise, in which a grows and s stays.

    Args:
        world: the seed of W1 and W2. seed: of entities, times and noise.
    """
    rng = np.random.default_rng([1, seed])
    others = rng.standard_normal((num_entities, NUM_OTHERS))
    rate = 0.15 * np.exp(0.3 * rng.standard_normal(num_entities))
    gaps = 1 + 0.5 * rng.random((num_entities, num_visits - 1))
    times = np.column_stack([np.zeros(num_entities), gaps.cumsum(axis=1)])
    factor = rng.standard_normal(num_entities)[:, None] + rate[:, None] * times
    others = np.repeat(others, num_visits, axis=0)
    a = factor.ravel()
    inputs = 1 + NUM_OTHERS
    of_world = np.random.default_rng([0, world])
    first = of_world.standard_normal((inputs, NUM_FEATURES)) * gain / inputs**0.5
    second = of_world.standard_normal((NUM_FEATURES, NUM_FEATURES)) / NUM_FEATURES**0.5
    x = np.tanh(np.column_stack([a, others]) @ first) @ second
    x += 0.2 * rng.standard_normal(x.shape)
    frame = pl.DataFrame(x, schema=[f"x{number}" for number in range(NUM_FEATURES)])
    frame = frame.with_columns(
        entity=pl.Series(np.repeat(np.arange(num_entities), num_visits)),
        time=pl.Series(times.ravel()),
    )
    return Planted(read_visits(frame, entity="entity", time="time"), a, others)


def oasis2(folder: Path) -> pl.DataFrame:
    """Return the sessions of OASIS-2, days since the first in years, and whether each subject is
    demented at any session.
    """
    frame = _read(folder / "oasis2" / "oasis_longitudinal.csv.gz", separator=",")
    return frame.with_columns((pl.col("MR Delay") / 365.25).alias("years"))


def cmapss(folder: Path, span: int) -> pl.DataFrame:
    """Return the cycles of the 100 engines of FD001 that run to failure, and those left to each.

    Args:
        span: each cycle has the mean of the sensors over so many, itself the last; an engine's
            first cycles, which have fewer before them, are left out.
    """
    names = ["engine", "cycle", "setting 1", "setting 2", "setting 3", *SENSORS]
    text = gzip.decompress((folder / "cmapss" / "train_FD001.txt.gz").read_bytes()).decode()
    values = np.loadtxt(io.StringIO(text))
    frame = pl.DataFrame(values, schema=names)
    left = pl.col("cycle").max().over("engine") - pl.col("cycle")
    # Rounded: a sensor that never changes must not do so by the error of a running sum.
    means = [pl.col(name).rolling_mean(span).over("engine").round(9) for name in SENSORS]
    return frame.with_columns(left.alias("cycles left"), *means).drop_nulls()


def ml1m(folder: Path, out: Path) -> Dataset:
    """Return the sequences of ML-1M with the titles of the films, prepared in `out`."""
    if not (out / "dataset.json").is_file():
        tables = ml_1m_tables(out.with_name(f"{out.name}-tables"), folder / "ml-1m")
        prepare(tables.interactions, out, items=tables.items, split="none")
    return Dataset(out)


def ml100k(folder: Path, out: Path) -> Dataset:
    """Return ML-100K with its times and the titles of the films, prepared in `out`."""
    if not (out / "dataset.json").is_file():
        tables = out.with_name(f"{out.name}-tables")
        tables.mkdir(parents=True, exist_ok=True)
        log = _read(folder / "ml-100k" / "ml-100k.inter.gz", separator="\t")
        log.columns = ["user", "item", "rating", "timestamp"]
        log.drop("rating").write_csv(tables / "interactions.csv")
        films = _read(folder / "ml-100k" / "ml-100k.item.gz", separator="\t", infer_schema=False)
        films.columns = ["item", "title", "year", "genres"]
        title = pl.format("{} ({})", "title", "year").alias("title")  # as ML-1M has them
        films.select("item", title).write_csv(tables / "items.csv")
        prepare(tables / "interactions.csv", out, items=tables / "items.csv", split="none")
    return Dataset(out)


def release_years(visits: Visits) -> NDArray[np.float64]:
    """Return the mean year of release of the films of each window [N], which ends their titles."""
    bags = visits.measured
    assert isinstance(bags, ItemBags)
    titles = pl.Series(bags.names).str.extract(r"\((\d{4})\)\s*$").cast(pl.Float64)
    years = titles.fill_null(titles.mean()).to_numpy()[bags.items - 1]
    return np.add.reduceat(years, bags.offsets[:-1]) / np.diff(bags.offsets)


def _read(path: Path, *, separator: str, infer_schema: bool = True) -> pl.DataFrame:
    text = io.BytesIO(gzip.decompress(path.read_bytes()))
    return pl.read_csv(text, separator=separator, infer_schema=infer_schema)
