"""Sequential intensity of MovieLens, and what it owes to the listing of simultaneous ratings.

    python -m benchmarks.intensity

MovieLens-1M is the 5-core of the paper of Caser, whose lists have no times; MovieLens-100K has
times, and its ties are listed as in the file, by movie, or at random. Items with fewer than 5
ratings are left out of both. Data: ../shared/data; it is not part of the project.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import ensue
from benchmarks._report import to_table, write_report
from ensue.data.histories import Histories
from ensue.evaluation.profile.intensity import sequential_intensity
from ensue.evaluation.profile.shuffle import shuffle_histories

SHARED = Path(__file__).parents[2] / "shared" / "data"


def main() -> int:
    """Measure, print a table, and write the report."""
    if not SHARED.is_dir():
        print(f"skipped: {SHARED} does not exist", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = [*movielens_1m(Path(folder)), *movielens_100k()]
    config = {"rules": "X of 1 to 5 items, confidence 0.5"}
    print(to_table(rows))
    print(write_report("intensity", config, rows))
    return 0


def movielens_1m(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to count or to list."""
    data = ensue.prepare(SHARED / "ml-1m" / "sequences.txt.gz", folder / "ml-1m", split="none")
    histories = data.histories("all")
    for support in (5, 4, 3):
        yield measure("ml-1m", "as listed", histories, min_support=support)
    shuffled = shuffle_histories(histories, np.random.default_rng(0))
    yield measure("ml-1m", "by chance", shuffled, min_support=5)


def movielens_100k() -> Iterator[dict[str, Any]]:
    """Yield a row for each order of the ratings that a user made at the same second."""
    with gzip.open(SHARED / "ml-100k" / "ml-100k.inter.gz") as file:
        log = pl.read_csv(
            file.read(), separator="\t", new_columns=["user", "item", "rating", "time"]
        )
    log = log.filter(pl.len().over("item") >= 5).with_row_index("row")
    draws = np.random.default_rng(0).random(len(log))
    log = log.with_columns(pl.Series("draw", draws)).sort("user", "time", "row")
    tied = ((log["user"].diff() == 0) & (log["time"].diff() == 0)).sum() / len(log)
    for name, column in (("file", "row"), ("movie", "item"), ("chance", "draw")):
        ordered = log.sort("user", "time", column)
        lengths = np.bincount(ordered["user"].to_numpy())
        ends = np.cumsum(lengths)
        items = ordered["item"].to_numpy().astype(np.int32)
        histories = Histories(items, ends - lengths, ends)
        order = f"{tied:.1%} ties, by {name}"
        yield measure("ml-100k", order, histories, min_support=5)


def measure(name: str, order: str, histories: Histories, *, min_support: int) -> dict[str, Any]:
    """Return a row of the table."""
    started = time.perf_counter()
    found = sequential_intensity(histories, min_support=min_support)
    return {
        "data": name,
        "order": order,
        "support": min_support,
        **{f"L={length}": count for length, count in found.rules.items()},
        "intensity": found.value,
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    sys.exit(main())
