"""Arrays of a ranking dataset: as files, and gathered for rows in any order.

```
DIR/dataset.json           see data.ranking.info
DIR/codes.npy              int32 [R, C]: categorical columns in their order, then ids (user, item,
                           group) that are no features; 0 is missing
DIR/numbers.npy            float32 [R, K], standardized, NaN where missing
DIR/labels.npy             float32 [R, M], NaN where a row has none
DIR/weights.npy            float32 [R, W], the columns of weights, each once
DIR/times.npy              int64 [R], microseconds, ascending in each part; where there are times
DIR/bag-N.values.npy       int32 [S]; of bag N of the multi-valued and history columns, row r has
DIR/bag-N.ends.npy         values[ends[r] - lengths[r]:ends[r]], int64
DIR/bag-N.lengths.npy      int32
DIR/vector-N.npy           float32 [R, D]
DIR/vocabulary-N.arrow     raw_id, id (int64), train_count: of the values 1..V of a vocabulary
```

Bags and vectors of items and users have a row for each code, 0 first, in place of one for each row.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.errors import DataError

_BLOCK_BYTES = 1 << 22


def create(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a new array that is a file."""
    if not np.prod(shape):  # nothing cannot be mapped
        empty: NDArray[Any] = np.empty(shape, dtype=dtype)
        np.save(path, empty)
        return empty
    mapped: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    return mapped


def load(path: Path) -> NDArray[Any]:
    """Return an array of a dataset, memory-mapped and read-only.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:
            array = np.load(path, allow_pickle=False)
            if array.size:
                raise
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} must be what ensue prepare wrote; it is not: {error}. Prepare again."
        ) from None
    return array


def ragged_rows(starts: NDArray[np.int64], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return starts[0], starts[0] + 1, ..., lengths[0] of them, then those of the next, and so on.

    >>> ragged_rows(np.array([5, 9]), np.array([2, 1])).tolist()
    [5, 6, 9]
    """
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    total = int(before[-1] + lengths[-1]) if len(lengths) else 0
    return np.arange(total) + np.repeat(starts - before, lengths)


def hash_arrays(folder: Path, schema: str) -> str:
    """Return a hash of what a model can read of a dataset."""
    hasher = hashlib.sha256(schema.encode())
    for file in sorted(folder.iterdir()):
        if file.suffix == ".npy":
            hasher.update(f"\n{file.name}\n".encode())
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK_BYTES):
                    hasher.update(block)
        elif file.suffix == ".arrow":  # two versions of Arrow may write the same values differently
            hasher.update(f"\n{file.name}\n".encode())
            hasher.update(pl.read_ipc(file)["id"].to_numpy().tobytes())
    return hasher.hexdigest()
