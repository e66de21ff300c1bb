"""The files of a dataset directory, written from rows that passed all filters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.arrow_file import ColumnFile
from ensue.data.filters import count_rows
from ensue.data.partition import SortedPart, sorted_parts
from ensue.data.row_store import RowStore
from ensue.data.splits import PARTS, Split
from ensue.data.vocabulary import Vocabulary, dense_ids
from ensue.errors import DataError
from ensue.progress import track


@dataclass(frozen=True)
class Written:
    """What dataset.json says of the files.

    counts: users, items, interactions, and rows of each split.
    hash: SHA-256 of the content, whatever the number of parts it was written in.
    """

    counts: dict[str, int]
    hash: str


def write_tables(
    folder: Path,
    store: RowStore,
    vocabularies: Mapping[str, Vocabulary],
    split: Split,
    memory_bytes: int,
) -> Written:
    """Write interactions.arrow, users.arrow, items.arrow and context_NAME.arrow.

    `store` is given up.

    Raises:
        DataError: no row is for training.
    """
    tables = {
        name: dense_ids(ids.raw(), count_rows(store, name, len(ids)) > 0)
        for name, ids in vocabularies.items()
    }
    hashes = {f"{name} ids": _hash_text(raw) for name, (raw, _) in tables.items()}
    dense = {name: codes for name, (_, codes) in tables.items()}
    num_rows = store.num_rows
    ends, column_hashes = _write_interactions(
        folder / "interactions.arrow", store, dense, split, memory_bytes
    )
    if not (train := int((ends["train_end"] - ends["start"]).sum())):
        raise DataError(
            f"a dataset needs training rows; split {split.as_dict()} leaves none of {num_rows}."
        )
    validation = int((ends["validation_end"] - ends["train_end"]).sum())
    kept = {name: values for name, values in ends.items() if name != "start"}
    users = pl.DataFrame({"raw_id": tables["user"][0], **kept})
    users.write_ipc(folder / "users.arrow")
    pl.DataFrame({"raw_id": tables["item"][0]}).write_ipc(folder / "items.arrow")
    for name, (raw, _) in tables.items():
        if name not in ("user", "item"):
            pl.DataFrame({"raw_id": raw}).write_ipc(folder / f"context_{name}.arrow")
    counts = {
        "users": len(users),
        "items": len(tables["item"][0]),
        "interactions": num_rows,
        **dict(zip(PARTS, (train, validation, num_rows - train - validation), strict=True)),
    }
    return Written(counts, _hash_all({**hashes, **column_hashes}))


def _write_interactions(
    path: Path,
    store: RowStore,
    dense: Mapping[str, NDArray[np.int32]],
    split: Split,
    memory_bytes: int,
) -> tuple[dict[str, NDArray[np.int64]], dict[str, str]]:
    """Write the sorted rows; return each user's start and ends, and a hash of each column."""
    position_of_user = dense["user"][:-1] - np.int32(1)  # -1, no user, for those without rows
    user_rows = count_rows(store, "user", len(position_of_user))
    counts = np.zeros(int(dense["user"].max(initial=0)), dtype=np.int64)
    counts[position_of_user[user_rows > 0]] = user_rows[user_rows > 0]
    ends: dict[str, list[NDArray[np.int64]]] = {}
    dtypes = _dtypes(store)
    hashers = {name: hashlib.sha256(str(dtype).encode()) for name, dtype in dtypes.items()}
    num_rows = store.num_rows
    first_row = 0
    with (
        ColumnFile(path, dtypes, num_rows=num_rows) as file,
        track("Sorting and writing", num_rows, unit="rows") as advance,
    ):
        for part in sorted_parts(store, position_of_user, counts, memory_bytes):
            for name in dtypes:
                if name in ("time", "split"):  # come below, after each other
                    continue
                values = _user_column(part) if name == "user" else part.column(name)
                if name != "user" and name in dense:
                    values = dense[name][values]
                _put(file, hashers, name, values, first_row)
            times = part.column("time") if "time" in part.store.dtypes else None
            given = part.column("split") if "split" in part.store.dtypes else None
            splits = split.assign(part.offsets, times, given)
            _put(file, hashers, "time", _positions(part) if times is None else times, first_row)
            _put(file, hashers, "split", splits, first_row)
            for name, rows in _ends(part.offsets, splits).items():
                ends.setdefault(name, []).append(rows + first_row)
            first_row += len(part.order)
            advance(len(part.order))
    return (
        {name: np.concatenate(rows) for name, rows in ends.items()},
        {name: hasher.hexdigest() for name, hasher in hashers.items()},
    )


def _put(
    file: ColumnFile, hashers: Mapping[str, Any], name: str, values: NDArray[Any], first_row: int
) -> None:
    hashers[name].update(np.ascontiguousarray(values).data)
    file.write({name: values}, first_row=first_row)


def _dtypes(store: RowStore) -> dict[str, np.dtype[Any]]:
    """Return the columns of interactions.arrow."""
    first: dict[str, np.dtype[Any]] = {
        "user": np.dtype(np.int32),
        "item": np.dtype(np.int32),
        "time": np.dtype(np.int64),
        "split": np.dtype(np.uint8),
    }
    return {**first, **{name: d for name, d in store.dtypes.items() if name not in first}}


def _user_column(part: SortedPart) -> NDArray[np.int32]:
    """Return the dense user id of each row."""
    first = part.first_user + 1
    users = np.arange(first, first + len(part.offsets) - 1, dtype=np.int32)
    return np.repeat(users, np.diff(part.offsets))


def _positions(part: SortedPart) -> NDArray[np.int64]:
    """Return 0, 1, 2, ... for the rows of each user."""
    starts = np.repeat(part.offsets[:-1], np.diff(part.offsets))
    return np.arange(len(part.order)) - starts


def _ends(offsets: NDArray[np.int64], splits: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
    """Return where each user's rows start and each of their splits ends; every user has rows."""
    starts = offsets[:-1]
    train = np.add.reduceat(splits == 0, starts, dtype=np.int64)
    test = np.add.reduceat(splits == 2, starts, dtype=np.int64)
    return {
        "train_end": starts + train,
        "validation_end": offsets[1:] - test,
        "end": offsets[1:],
        "start": starts,
    }


def _hash_text(texts: pl.Series) -> str:
    """Return a hash of the strings and of where each ends."""
    hasher = hashlib.sha256(texts.str.len_bytes().to_numpy().tobytes())
    for piece in texts.to_frame().iter_slices(1 << 16):
        hasher.update("".join(piece.to_series()).encode())
    return hasher.hexdigest()


def _hash_all(hashes: Mapping[str, str]) -> str:
    lines = (f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
