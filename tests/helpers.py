"""Small datasets for tests, written as ensue/data/dataset.py describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.arrow_file import ColumnFile
from ensue.data.dataset import Dataset, DatasetInfo

DAY = 86_400_000_000


def make_dataset(
    path: Path,
    histories: Sequence[Sequence[int]],
    *,
    split: str | Sequence[tuple[int, int]] = "leave-one-out",
    num_items: int | None = None,
    name: str = "tiny",
    notes: Sequence[str] = (),
    context: Mapping[str, Sequence[Sequence[Any]]] | None = None,
) -> Dataset:
    """Return a dataset of the given histories of users 1, 2, ...; raw ids are "u1", "i1", ...

    Row n of a user has the time n days. The folder `path` is made.

    Args:
        histories: dense item ids 1..I of each user, oldest first.
        split: "leave-one-out" (fewer than 3 rows: all train), "ratio" (ceil(0.7 m), ceil(0.8 m)),
            "none", or for each user (rows of train, rows of train and validation).
        num_items: I, where the histories do not hold the largest item.
        context: for each column, the values of each user: text, or numbers; None is missing.
    """
    path.mkdir(parents=True, exist_ok=True)
    lengths = [len(history) for history in histories]
    ends = [_ends(length, split) for length in lengths] if isinstance(split, str) else list(split)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    context = context or {}
    columns = {**_interactions(histories, ends), **_context_columns(path, context)}
    if num_items is None:
        num_items = int(columns["item"].max())
    dtypes = {key: values.dtype for key, values in columns.items()}
    with ColumnFile(path / "interactions.arrow", dtypes, num_rows=int(starts[-1])) as file:
        file.write(columns, first_row=0)
    pl.DataFrame(
        {
            "raw_id": [f"u{user}" for user in range(1, len(histories) + 1)],
            "train_end": starts[:-1] + np.array([train for train, _ in ends], dtype=np.int64),
            "validation_end": starts[:-1] + np.array([end for _, end in ends], dtype=np.int64),
            "end": starts[1:],
        }
    ).write_ipc(path / "users.arrow")
    pl.DataFrame({"raw_id": [f"i{item}" for item in range(1, num_items + 1)]}).write_ipc(
        path / "items.arrow"
    )
    counts = {"users": len(histories), "items": num_items, "interactions": int(starts[-1])}
    parts = np.bincount(columns["split"], minlength=3).tolist()
    counts.update(zip(("train", "validation", "test"), parts, strict=True))
    digest = hashlib.sha256(b"".join(values.tobytes() for values in columns.values()))
    info = DatasetInfo(
        name=name,
        sources=["made for a test"],
        columns={"user": "user", "item": "item", "time": "time"},
        context=list(context),
        time="column",
        filters={},
        split={"kind": split if isinstance(split, str) else "given"},
        counts=counts,
        notes=list(notes),
        hash=digest.hexdigest(),
    )
    (path / "dataset.json").write_text(json.dumps(info.model_dump()), encoding="utf-8")
    return Dataset(path)


def _interactions(
    histories: Sequence[Sequence[int]], ends: Sequence[tuple[int, int]]
) -> dict[str, NDArray[Any]]:
    """Return the columns of interactions.arrow."""
    lengths = [len(history) for history in histories]
    row = [n for length in lengths for n in range(length)]
    users = np.repeat(np.arange(len(histories)), lengths)
    train, validation = np.array(ends, dtype=np.int64)[users].T
    return {
        "user": (users + 1).astype(np.int32),
        "item": np.array([i for history in histories for i in history], dtype=np.int32),
        "time": np.array(row, dtype=np.int64) * DAY,
        "split": ((row >= train).astype(np.uint8) + (row >= validation)).astype(np.uint8),
    }


def _context_columns(
    path: Path, context: Mapping[str, Sequence[Sequence[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return the context columns, and write the values of those of text."""
    columns: dict[str, NDArray[Any]] = {}
    for name, of_users in context.items():
        values = [value for own in of_users for value in own]
        known = sorted({value for value in values if value is not None})
        if known and isinstance(known[0], str):
            pl.DataFrame({"raw_id": known}).write_ipc(path / f"context_{name}.arrow")
            codes = {value: code for code, value in enumerate(known, start=1)}
            columns[name] = np.array([codes.get(value, 0) for value in values], dtype=np.int32)
        else:
            columns[name] = np.array(values, dtype=np.float64)  # None is NaN
    return columns


def _ends(length: int, split: str) -> tuple[int, int]:
    """Return where train and validation end in a history of `length` rows."""
    if split == "none" or (split == "leave-one-out" and length < 3):
        return length, length
    if split == "leave-one-out":
        return length - 2, length - 1
    if split == "ratio":
        return -(-7 * length // 10), -(-8 * length // 10)
    raise ValueError(f"unknown split {split!r}")
