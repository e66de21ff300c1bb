"""The features of items and of users on disk, as memory-mapped arrays.

```
DIR/item_features/            in the order of dataset.json's features.items.columns, from 0:
    0.npy                     codes int32 [N + 1], numbers float32 [N + 1], vectors [N + 1, D]
    1.values.npy              codes int32 [S] of the bags of a multi-valued feature
    1.offsets.npy             int64 [N + 2]
    1.vocabulary.arrow        raw_id: the values behind the codes 1..V
DIR/user_features/            the same
```

Row r is dense id r; row 0 is padding and has no value. Numbers are standardized: they have mean 0
and deviation 1 over the items or users that have one. Vectors are as given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.feature_info import FeatureInfo, FeaturesInfo
from ensue.data.features import Bags, FeatureTable
from ensue.errors import DataError

Side = Literal["items", "users"]
_BLOCK_BYTES = 1 << 22


def features_folder(dataset: Path, side: Side) -> Path:
    """Return the folder of the features of a side."""
    return dataset / f"{side.removesuffix('s')}_features"


def vocabulary_file(dataset: Path, side: Side, number: int) -> Path:
    """Return the file with the values of column `number`."""
    return features_folder(dataset, side) / f"{number}.vocabulary.arrow"


def values_file(dataset: Path, side: Side, number: int) -> Path:
    """Return the file of an array of column `number` with one row for each item or user."""
    return features_folder(dataset, side) / f"{number}.npy"


def write_values(
    dataset: Path,
    side: Side,
    number: int,
    values: NDArray[Any] | Bags,
) -> None:
    """Write the values of column `number` of an unfinished dataset."""
    path = values_file(dataset, side, number)
    if isinstance(values, Bags):
        for name in ("values", "offsets"):
            np.save(path.with_suffix(f".{name}.npy"), getattr(values, name))
    else:
        np.save(path, values)


def write_vocabulary(dataset: Path, side: Side, number: int, values: pl.Series) -> None:
    """Write the values behind the codes 1..V of column `number` of an unfinished dataset."""
    values.rename("raw_id").to_frame().write_ipc(vocabulary_file(dataset, side, number))


def read_features(dataset: Path, side: Side, info: FeaturesInfo) -> FeatureTable:
    """Return the features of a side, memory-mapped and read-only.

    Raises:
        DataError: a file is missing or damaged.
    """
    values = tuple(
        _read(values_file(dataset, side, number), column)
        for number, column in enumerate(info.columns)
    )
    return FeatureTable(tuple(column.column for column in info.columns), values)


def hash_features(dataset: Path, side: Side, columns: Sequence[FeatureInfo]) -> str:
    """Return a hash of what a model can read of the features of a side."""
    hasher = hashlib.sha256()
    for number, column in enumerate(columns):
        hasher.update(f"{column.name}\n{column.kind} {column.size}\n".encode())
        for file in sorted(features_folder(dataset, side).glob(f"{number}.*")):
            if file.suffix == ".npy":
                with file.open("rb") as opened:
                    while block := opened.read(_BLOCK_BYTES):
                        hasher.update(block)
            else:  # two versions of Arrow may write the same values differently
                hasher.update("\0".join(pl.read_ipc(file)["raw_id"]).encode())
    return hasher.hexdigest()


def _read(path: Path, column: FeatureInfo) -> NDArray[Any] | Bags:
    if column.kind != "multi":
        return _map(path)
    return Bags(_map(path.with_suffix(".values.npy")), _map(path.with_suffix(".offsets.npy")))


def _map(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must be what ensue prepare wrote; it is not: {error}. Prepare again."
        ) from None
    return array
