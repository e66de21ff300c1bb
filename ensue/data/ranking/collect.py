"""The rows of the input on their way into a ranking dataset: checked, coded, in input order.

Shapes: n rows of a chunk; C coded, K numeric columns; M tasks, W columns of weights; D width of a
vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.feature_builders import float_columns
from ensue.data.feature_values import (
    BadValueError,
    to_bags,
    to_numbers,
    to_vectors,
    vector_size,
)
from ensue.data.ranking.roles import RowFeature, RowRoles
from ensue.data.ranking.targets import Comparison, Target, read_weights
from ensue.data.ranking.value_ids import ValueCodes
from ensue.data.row_store import RowStore
from ensue.data.tables import Chunk
from ensue.data.times import TimeParser
from ensue.errors import DataError


@dataclass(frozen=True)
class Plan:
    """What to read of each row.

    events: which rows are events of a history; None is all of them.
    """

    roles: RowRoles
    targets: tuple[Target, ...]
    events: Comparison | None = None

    @property
    def coded(self) -> list[str]:
        """The columns of codes: categorical features, then the ids that are none."""
        names = [one.name for one in self.of_kind("categorical")]
        roles = self.roles
        ids = [name for name in (roles.user, roles.item, roles.group) if name is not None]
        return list(dict.fromkeys([*names, *ids]))

    @property
    def weights(self) -> list[str]:
        """The columns of weights, each once."""
        return list(dict.fromkeys(t.weight for t in self.targets if t.weight is not None))

    @property
    def needed(self) -> list[str]:
        """The columns to read, each once."""
        sources = [source for one in self.roles.features for source in one.sources]
        more = [self.roles.time, self.events.column if self.events else None]
        labels = [target.column for target in self.targets]
        names = [*sources, *self.coded, *labels, *self.weights, *more]
        return list(dict.fromkeys(name for name in names if name is not None))

    def of_kind(self, *kinds: str) -> list[RowFeature]:
        """Return the features of these kinds, in their order."""
        return [one for one in self.roles.features if one.kind in kinds]


class RowCollector:
    """Rows as fixed-width columns, and the values of bags beside them; on disk once they are many.

    rows: columns codes [C] int32 (-1 is missing), numbers [K] float64, vectors.N [D] float32,
        labels [M], weights [W] float64, time int64, part and event uint8, length.N int32; a column
        of several numbers is one of bytes, see `matrix`.
    values: the codes of each bag, one bag after the other.
    widths: D of each vector.
    vocabularies: of the coded columns, the bags, and the histories that have their own.
    """

    def __init__(
        self, plan: Plan, sample: pl.DataFrame, folder: Path, *, memory_bytes: int
    ) -> None:
        self.plan = plan
        self._folder = folder
        self.bags = plan.of_kind("multi", "history")
        self.numbers = plan.of_kind("numeric")
        self.vectors = plan.of_kind("vector")
        self.widths = {one.name: _width(one, sample) for one in self.vectors}
        names = [*plan.coded, *(one.vocabulary for one in self.bags)]
        self.vocabularies = {name: ValueCodes(name) for name in dict.fromkeys(names)}
        share = memory_bytes // (1 + len(self.bags))
        self.rows = RowStore(self._dtypes(), folder / "rows", memory_bytes=share)
        self.values = [
            RowStore({"code": np.dtype(np.int32)}, folder / f"bag{number}", memory_bytes=share)
            for number in range(len(self.bags))
        ]
        self._times: dict[Path, TimeParser] = {}

    def add(self, chunk: Chunk, part: int) -> None:
        """Add the rows of a chunk, which are for part number `part`.

        Raises:
            DataError: a value is not what its column must hold.
        """
        num_rows = len(chunk.rows)
        columns: dict[str, NDArray[Any]] = {"part": np.full(num_rows, part, dtype=np.uint8)}
        if self.plan.roles.time is not None:
            parser = self._times.setdefault(chunk.path, TimeParser(self.plan.roles.time))
            columns["time"] = parser.parse(chunk)
        codes = [self._read(chunk, name, self._codes) for name in self.plan.coded]
        numbers = [self._read(chunk, one.name, to_numbers) for one in self.numbers]
        _put(columns, "codes", codes, np.int32)
        _put(columns, "numbers", numbers, np.float64)
        for number, (one, width) in enumerate(zip(self.vectors, self.widths.values(), strict=True)):
            vectors = _read_vector(chunk, one, width)
            _put(columns, f"vectors.{number}", list(vectors.T), np.float32)
        for number, one in enumerate(self.bags):
            columns[f"length.{number}"] = self._add_bag(chunk, number, one)
        self._add_labels(chunk, columns)
        self.rows.append(columns)

    def matrix(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        """Return a column of several numbers as [R, width]; of none, an empty array."""
        if name not in self.rows.dtypes:
            return np.empty((self.rows.num_rows, 0), dtype=dtype)
        width = self.rows.dtypes[name].itemsize // np.dtype(dtype).itemsize
        return self.rows.array(name).view(dtype).reshape(self.rows.num_rows, width)

    def _dtypes(self) -> dict[str, np.dtype[Any]]:
        widths = {
            "codes": 4 * len(self.plan.coded),
            "numbers": 8 * len(self.numbers),
            "labels": 8 * len(self.plan.targets),
            "weights": 8 * len(self.plan.weights),
        }
        widths.update({f"vectors.{n}": 4 * width for n, width in enumerate(self.widths.values())})
        dtypes = {name: np.dtype(f"V{width}") for name, width in widths.items() if width}
        dtypes["part"] = np.dtype(np.uint8)
        if self.plan.roles.time is not None:
            dtypes["time"] = np.dtype(np.int64)
        if self.plan.events is not None:
            dtypes["event"] = np.dtype(np.uint8)
        dtypes.update({f"length.{n}": np.dtype(np.int32) for n in range(len(self.bags))})
        return dtypes

    def _read(self, chunk: Chunk, name: str, read: Any) -> NDArray[Any]:
        try:
            values: NDArray[Any] = read(chunk.rows[name])
        except BadValueError as error:
            raise bad_value(chunk, "feature", name, (name,), error) from None
        return values

    def _codes(self, values: pl.Series) -> NDArray[np.int32]:
        """Return the codes [n] of a categorical column; -1 is missing."""
        return self.vocabularies[values.name].encode(values)

    def _add_bag(self, chunk: Chunk, number: int, one: RowFeature) -> NDArray[np.int32]:
        """Add the values of a bag; return how many each row has [n]."""
        try:
            rows, texts = to_bags(chunk.rows[one.name], one.separator)
        except BadValueError as error:
            raise bad_value(chunk, "feature", one.name, (one.name,), error) from None
        codes = self.vocabularies[one.vocabulary].encode(texts)
        if one.kind == "multi":  # each value once
            width = len(self.vocabularies[one.vocabulary]) + 1
            rows, codes = np.divmod(np.unique(rows * width + codes), width)
        self.values[number].append({"code": codes.astype(np.int32)})
        return np.bincount(rows, minlength=len(chunk.rows)).astype(np.int32)

    def _add_labels(self, chunk: Chunk, columns: dict[str, NDArray[Any]]) -> None:
        labels = []
        for target in self.plan.targets:
            try:
                labels.append(target.labels(chunk.rows[target.column]))
            except BadValueError as error:
                raise bad_value(chunk, "target", target.name, (target.column,), error) from None
        _put(columns, "labels", labels, np.float64)
        weights = []
        for name in self.plan.weights:
            try:
                weights.append(read_weights(chunk.rows[name]))
            except BadValueError as error:
                raise bad_value(chunk, "weight", name, (name,), error) from None
        _put(columns, "weights", weights, np.float64)
        if (events := self.plan.events) is not None:
            try:
                is_event = events.evaluate(chunk.rows[events.column]) == 1
            except BadValueError as error:
                name = events.column
                raise bad_value(chunk, "event", name, (name,), error) from None
            columns["event"] = is_event.astype(np.uint8)


def bad_value(
    chunk: Chunk, role: str, name: str, columns: Sequence[str], error: BadValueError
) -> DataError:
    """Return the error that says where a bad value is, and what its column must hold."""
    values = [chunk.rows[column][error.index] for column in columns]
    remedy = {
        "feature": f", or say what the column is with --feature {name}=ROLE",
        "target": ", or compare the column, as in COLUMN>=4 or COLUMN=TEXT",
    }.get(role, "")
    return DataError(
        f"{role} {name!r} must hold {error.needed}; {chunk.place(error.index)} has "
        f"{values[0] if len(values) == 1 else values!r}. Repair it{remedy}."
    )


def _put(
    columns: dict[str, NDArray[Any]],
    name: str,
    parts: Sequence[NDArray[Any]],
    dtype: type[np.generic],
) -> None:
    """Add the parts [n] side by side as one column of bytes, row after row; none of no parts."""
    if not parts:
        return
    matrix = np.empty((len(parts[0]), len(parts)), dtype=dtype)
    for number, values in enumerate(parts):
        matrix[:, number] = values
    columns[name] = matrix.view(f"V{matrix.dtype.itemsize * len(parts)}")[:, 0]


def _read_vector(chunk: Chunk, one: RowFeature, width: int) -> NDArray[np.float32]:
    columns = [chunk.rows[name] for name in one.sources]
    try:
        if len(columns) > 1:
            return float_columns(columns)
        return to_vectors(columns[0], one.separator, width)
    except BadValueError as error:
        raise bad_value(chunk, "feature", one.name, one.sources, error) from None


def _width(one: RowFeature, sample: pl.DataFrame) -> int:
    """Return the width of a vector.

    Raises:
        DataError: the first rows have none.
    """
    if len(one.sources) > 1:
        return len(one.sources)
    width = vector_size(sample[one.name], one.separator)
    if not width:
        raise DataError(
            f"the first rows must show the width of vector {one.name!r}; they have no value. "
            f"Leave the column out with --feature {one.name}=ignore."
        )
    return width
