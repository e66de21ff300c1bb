"""Predictions for the rows of a table, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ensue.data.readers import open_tables
from ensue.data.tables import Table
from ensue.errors import DataError, UsageError
from ensue.files import atomic_file
from ensue.progress import track
from ensue.runs.ranker import PREDICT_ROWS, RankingRun

SUFFIXES = (".parquet", ".csv")


def predict_table(
    run: RankingRun, table: str | Path, out: str | Path, *, keep: Sequence[str] = ()
) -> int:
    """Write the predictions for each row of `table` to `out`, in order; return how many rows.

    `out` has the columns `keep` of the table and one for each task: the probability of 1, or the
    value. In memory are 4 bytes for each prediction, the columns to keep, and some rows.

    Args:
        table: as the one that the dataset was made of; labels may be missing. Columns that the
            model does not read may be there.
        out: a .parquet or a .csv file, which appears whole.

    Raises:
        UsageError: `out` has another suffix, the table has no column that the model reads, or a
            value is not what its column holds.
        DataError: the table cannot be read, has no rows, or has no column to keep.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise UsageError(f"predictions are written to a .parquet or a .csv file; got {out}.")
    tasks = [task.name for task in run.schema.tasks]
    if taken := set(tasks) & set(keep):
        raise UsageError(f"columns to keep have other names than the tasks; got {sorted(taken)}.")
    parts: list[np.ndarray] = []
    kept: list[pl.DataFrame] = []
    with track("predict", unit="rows") as advance:
        for file in open_tables([table]):
            needed = _needed(run, file, keep)
            for chunk in file.read([*dict.fromkeys([*needed, *keep])], PREDICT_ROWS):
                found = run.predict(chunk.rows.select(needed).to_dicts())
                parts.append(np.stack([found[task] for task in tasks], axis=1))
                kept.append(chunk.rows.select(keep))
                advance(len(chunk.rows))
    if not parts:
        raise DataError(f"a table to predict needs rows; {table} has none.")
    scores = np.concatenate(parts)
    columns = pl.DataFrame({task: scores[:, number] for number, task in enumerate(tasks)})
    answers = pl.concat(kept).hstack(columns) if keep else columns
    with atomic_file(out) as temporary:
        if out.suffix == ".csv":
            answers.write_csv(temporary)
        else:
            answers.write_parquet(temporary)
    return len(scores)


def _needed(run: RankingRun, file: Table, keep: Sequence[str]) -> list[str]:
    """Return the columns of a file that the model reads."""
    if missing := [name for name in keep if name not in file.columns]:
        raise DataError(f"{file.path} has no column {missing[0]!r} to keep; it has {file.columns}.")
    read = {name for info in run.encoder.columns for name in (info.name, *info.sources)}
    needed = [name for name in file.columns if name in read]
    if not needed:
        raise DataError(
            f"a table to predict needs a column that the model reads, of "
            f"{[info.name for info in run.encoder.columns]}; {file.path} has {file.columns}."
        )
    return needed
