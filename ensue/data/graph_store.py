"""The edge tables of a dataset on disk.

```
DIR/graphs/NAME.arrow     source, target int32 (dense ids); weight float32; where the table has
                          times, time int64 (microseconds). Sorted by source, target and time, a
                          row for each different one
DIR/entities/TYPE.arrow   raw_id, in dense-id order, of each type that is neither user nor item
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.config import Config
from ensue.data.arrow_file import ColumnFile, read_columns
from ensue.data.graphs import GraphSchema
from ensue.errors import DataError


class GraphInfo(Config):
    """What dataset.json says of an edge table.

    types, sizes: see `ensue.data.graphs.GraphSchema`.
    columns: "source", "target", and where there are any "weight" and "time" -> column of the input.
    has_time: whether edges have times that can be compared with those of the log.
    edges: rows stored; rows: of the table; unknown_rows: of users or items that are not in the log.
    held_out: edges that are pairs of a user and an item of the validation or the test part.
    hash: SHA-256 of the edges as stored; the hash of the dataset does not depend on them.
    """

    types: tuple[str, str]
    sizes: tuple[int, int]
    sources: list[str]
    columns: dict[str, str]
    has_time: bool
    edges: int
    rows: int
    unknown_rows: int
    held_out: int
    hash: str

    def as_schema(self, name: str) -> GraphSchema:
        """Return the graph as a model sees it."""
        return GraphSchema(name, self.types, self.sizes)

    def with_more_users(self, num_more: int) -> GraphInfo:
        """Return the graph with users behind the others, who have no edges."""
        first, second = (
            size + num_more * (kind == "user")
            for kind, size in zip(self.types, self.sizes, strict=True)
        )
        return self.model_copy(update={"sizes": (first, second)})


def edges_file(dataset: Path, name: str) -> Path:
    """Return the file of the edges of a graph."""
    return dataset / "graphs" / f"{name}.arrow"


def entities_file(dataset: Path, kind: str) -> Path:
    """Return the file of the raw ids of an entity type."""
    return dataset / "entities" / f"{kind}.arrow"


def write_edges(dataset: Path, name: str, columns: Mapping[str, NDArray[Any]]) -> str:
    """Write the edges of a graph into an unfinished dataset; return a hash of them.

    Args:
        columns: source, target, weight and perhaps time [E], E > 0, sorted.
    """
    path = edges_file(dataset, name)
    path.parent.mkdir(exist_ok=True)
    dtypes = {column: values.dtype for column, values in columns.items()}
    num_rows = len(columns["source"])
    hasher = hashlib.sha256()
    with ColumnFile(path, dtypes, num_rows=num_rows) as file:
        file.write(columns, first_row=0)
    for column, values in columns.items():
        hasher.update(f"{column} {values.dtype}\n".encode())
        hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()


def read_edges(dataset: Path, name: str) -> dict[str, NDArray[Any]]:
    """Return the columns of a graph, memory-mapped and read-only.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = edges_file(dataset, name)
    try:
        return read_columns(path)
    except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
        raise DataError(
            f"{path} must be what ensue prepare wrote; it is not: {error}. Prepare again."
        ) from None


def write_entities(dataset: Path, kind: str, raw_ids: pl.Series) -> None:
    """Write the raw ids of an entity type into an unfinished dataset."""
    path = entities_file(dataset, kind)
    path.parent.mkdir(exist_ok=True)
    raw_ids.rename("raw_id").to_frame().write_ipc(path)
