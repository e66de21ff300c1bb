"""Raw rows, as they stand in the tables given to `prepare`, as the batch that a model reads.

Shapes: B rows to encode, V values of a vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ensue.config import make_config
from ensue.data.feature_encoder import read_bags, read_numbers, read_text, read_vectors, value_of
from ensue.data.feature_values import (
    BadValueError,
    standardize,
    to_bags,
    to_numbers,
    to_texts,
    to_vectors,
)
from ensue.data.ids import IdMap
from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.info import RankingColumnInfo
from ensue.data.ranking.scaling import log_scale
from ensue.data.ranking.schema import RankingSchema, Task
from ensue.data.ranking.value_ids import value_ids
from ensue.errors import RunError, UsageError, did_you_mean
from ensue.files import write_json

Unknown = dict[tuple[int, str], None]  # row, "name=value"


class Texts(NamedTuple):
    """The values of a categorical column, a bag or a history: the row [S] and the text [S] of each.

    Those of one row are in order.
    """

    rows: NDArray[np.int64]
    texts: list[str]


class RankingEncoder:
    """Reads values as `prepare` reads them.

    A row has a value for each column, by its name or by those of its sources: columns of tables of
    items and users are given as they stand there, and the history of a log as a list of items,
    oldest first. Other names of the input may be there and are not read.

    unused: these names. history_length: how many of the last values of a history are read.
    """

    def __init__(
        self,
        columns: Sequence[RankingColumnInfo],
        tasks: Sequence[Task],
        vocabularies: Mapping[str, IdMap],
        *,
        history_length: int,
        unused: Sequence[str] = (),
    ) -> None:
        self.columns, self._tasks = tuple(columns), tuple(tasks)
        self._vocabularies = dict(vocabularies)
        self.history_length, self.unused = history_length, tuple(unused)
        self.schema = RankingSchema(tuple(info.column for info in columns), self._tasks)
        self._known = {
            *(info.name for info in columns),
            *(source for info in columns for source in info.sources),
            *unused,
        }

    @classmethod
    def from_dataset(cls, dataset: RankingDataset) -> RankingEncoder:
        """Return the encoder of a dataset's rows."""
        info = dataset.info
        ids = [name for name in (info.user, info.item, info.time, info.group) if name is not None]
        others = [name.removeprefix("items.").removeprefix("users.") for name in info.unused]
        vocabularies = {name: IdMap(dataset.values(name)) for name in dataset.schema.vocabularies}
        return cls(
            info.columns,
            dataset.schema.tasks,
            vocabularies,
            history_length=info.history_length,
            unused=list(dict.fromkeys([*others, *ids])),
        )

    def encode(
        self, rows: Sequence[Mapping[str, Any]], *, as_ids: bool = False
    ) -> tuple[RankingBatch, list[str]]:
        """Return rows as a batch without labels, and the unknown values as "name=value".

        A value that the dataset does not have is code 0, and in a bag or a history is left out;
        with `as_ids` it has its own id, as any other. Names that a row does not have, and values
        that are None, NaN or empty, are missing.

        Raises:
            UsageError: a name is no column of the input, or a value is not of its column's kind.
        """
        batch, unknown = self._encode_rows(rows, as_ids=as_ids)
        return batch, list(dict.fromkeys(text for _, text in unknown))

    def encode_each(
        self, rows: Sequence[Mapping[str, Any]], *, as_ids: bool = False
    ) -> tuple[RankingBatch, list[list[str]]]:
        """Return rows as `encode` does, and the unknown values of each row."""
        batch, pairs = self._encode_rows(rows, as_ids=as_ids)
        unknown: list[list[str]] = [[] for _ in rows]
        for row, text in pairs:
            unknown[row].append(text)
        return batch, unknown

    def encode_table(self, table: pl.DataFrame, *, as_ids: bool = False) -> RankingBatch:
        """Return the rows of a table as a batch without labels; columns that it lacks are missing.

        It is what `encode` gives for the same values, without a look at each of them. Columns that
        are not read may be there.

        Raises:
            UsageError: a value is not of its column's kind.
        """

        def read(info: RankingColumnInfo) -> Any:
            try:
                return _read_column(info, table)
            except BadValueError as error:
                raise UsageError(
                    f"column {info.name!r} must hold {error.needed}; row {error.index + 1} of the "
                    "table holds something else."
                ) from None

        return self._assemble(len(table), read, None, as_ids=as_ids)

    def codes(
        self, vocabulary: str, texts: Sequence[str], *, as_ids: bool = False
    ) -> NDArray[np.int64]:
        """Return what stands for values [n] of a vocabulary: codes, 0 where unknown, or ids."""
        if as_ids:
            return value_ids(vocabulary, pl.Series(texts, dtype=pl.String))
        return self._vocabularies[vocabulary].to_dense(texts)

    def bag(
        self,
        info: RankingColumnInfo,
        rows: NDArray[np.int64],
        codes: NDArray[np.int64],
        num_rows: int,
    ) -> Bag:
        """Return the bags of a column whose values are codes [S], each of a row [S]; 0 is left out.

        A history has its last values in the order given, other bags have each value once.
        """
        rows, codes = rows[codes != 0], codes[codes != 0]
        if info.kind == "history":
            order = np.argsort(rows, kind="stable")
        else:
            order = np.lexsort((codes, rows))
        rows, codes = rows[order], codes[order]
        if info.kind == "history":
            behind = np.searchsorted(rows, rows, side="right") - np.arange(len(rows))
            is_kept = behind <= self.history_length
        else:
            is_kept = np.ones(len(rows), dtype=np.bool_)
            is_kept[1:] = (np.diff(rows) != 0) | (np.diff(codes) != 0)
        rows, codes = rows[is_kept], codes[is_kept]
        offsets = np.searchsorted(rows, np.arange(num_rows + 1))
        return Bag(torch.from_numpy(codes), torch.from_numpy(offsets.astype(np.int64)))

    def select(self, names: Collection[str]) -> RankingEncoder:
        """Return an encoder of the columns with these names alone, in their order here."""
        columns = [info for info in self.columns if info.name in names]
        return RankingEncoder(
            columns,
            self._tasks,
            self._vocabularies,
            history_length=self.history_length,
            unused=self.unused,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the encoder, ready for JSON."""
        return {
            "columns": [info.model_dump() for info in self.columns],
            "tasks": [{"name": task.name, "kind": task.kind} for task in self._tasks],
            "vocabularies": {name: ids.raw.to_list() for name, ids in self._vocabularies.items()},
            "history_length": self.history_length,
            "unused": list(self.unused),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RankingEncoder:
        """Return the encoder that `to_dict` stored."""
        return cls(
            [make_config(RankingColumnInfo, column) for column in stored["columns"]],
            [Task(**task) for task in stored["tasks"]],
            {
                name: IdMap(pl.Series(values, dtype=pl.String))
                for name, values in stored["vocabularies"].items()
            },
            history_length=stored["history_length"],
            unused=stored["unused"],
        )

    def save(self, path: str | Path) -> None:
        """Write the encoder as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> RankingEncoder:
        """Return the encoder that `save` wrote.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} must be an encoder of rows; it is not: {error}.") from None

    def _check_names(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if not row.keys() <= self._known:
                name = next(name for name in row if name not in self._known)
                names = [info.name for info in self.columns]
                raise UsageError(
                    f"values are of the columns {names}; got {name!r}." + did_you_mean(name, names)
                )

    def _encode_rows(
        self, rows: Sequence[Mapping[str, Any]], *, as_ids: bool
    ) -> tuple[RankingBatch, Unknown]:
        """Return rows as a batch, and the unknown values."""
        self._check_names(rows)

        def read(info: RankingColumnInfo) -> Any:
            feature = info.feature
            given = [value_of(feature, row) for row in rows]
            try:
                return _read_values(info, given)
            except BadValueError as error:
                raise UsageError(
                    f"column {info.name!r} must hold {error.needed}; row {error.index + 1} has "
                    f"{given[error.index]!r}."
                ) from None

        unknown: Unknown = {}
        return self._assemble(len(rows), read, unknown, as_ids=as_ids), unknown

    def _assemble(
        self,
        num_rows: int,
        read: Callable[[RankingColumnInfo], Any],
        unknown: Unknown | None,
        *,
        as_ids: bool,
    ) -> RankingBatch:
        """Return a batch of what `read` returns of each column.

        Args:
            read: returns numbers [B], vectors [B, D], or `Texts`.
            unknown: gets the unknown values; None does without.
        """
        codes: list[NDArray[np.int64]] = []
        numbers, bags, vectors = [], [], []
        for info in self.columns:
            values = read(info)
            if info.kind == "numeric":
                numbers.append(_scaled(info, values))
            elif info.kind == "vector":
                vectors.append(torch.from_numpy(values))
            else:
                found = self._look_up(info, values, unknown, as_ids=as_ids)
                if info.kind == "categorical":
                    codes.append(np.zeros(num_rows, dtype=np.int64))
                    codes[-1][values.rows] = found
                else:
                    bags.append(self.bag(info, values.rows, found, num_rows))
        shape = (num_rows, len(self._tasks))
        return RankingBatch(
            codes=_stack(codes, num_rows, np.int64),
            bags=tuple(bags),
            numbers=_stack(numbers, num_rows, np.float32),
            vectors=tuple(vectors),
            labels=torch.full(shape, float("nan")),
            weights=torch.ones(shape),
        )

    def _look_up(
        self, info: RankingColumnInfo, values: Texts, unknown: Unknown | None, *, as_ids: bool
    ) -> NDArray[np.int64]:
        codes = self.codes(info.vocabulary, values.texts)
        if unknown is not None:
            for place in np.flatnonzero(codes == 0).tolist():
                unknown[int(values.rows[place]), f"{info.name}={values.texts[place]}"] = None
        return self.codes(info.vocabulary, values.texts, as_ids=True) if as_ids else codes


def _read_values(info: RankingColumnInfo, given: Sequence[Any]) -> Any:
    """Return values as they are given, one a row, as `_assemble` takes them."""
    if info.kind == "numeric":
        return read_numbers(given)
    if info.kind == "vector":
        return read_vectors(info.feature, given)[1:]
    if info.kind != "categorical":
        return Texts(*read_bags(given, info.separator))
    texts = {row: read_text(value, row) for row, value in enumerate(given)}
    there = {row: text for row, text in texts.items() if text is not None}
    return Texts(np.array(list(there), dtype=np.int64), list(there.values()))


def _read_column(info: RankingColumnInfo, table: pl.DataFrame) -> Any:
    """Return a column of a table as `_assemble` takes it."""
    if info.name not in table.columns and len(info.sources) > 1 and info.is_in(table.columns):
        several = table.select(pl.concat_list(info.sources)).to_series()
        return to_vectors(several, None, info.size)
    name = info.name if info.name in table.columns else info.sources[0]
    if name in table.columns:
        values = table[name]
    else:
        values = pl.repeat(None, len(table), dtype=pl.String, eager=True)
    if info.kind == "numeric":
        return to_numbers(values)
    if info.kind == "vector":
        return to_vectors(values, info.separator, info.size)
    if info.kind != "categorical":
        rows, split = to_bags(values, info.separator)
        return Texts(rows, split.to_list())
    texts = to_texts(values)
    is_there = texts.is_not_null()
    return Texts(np.flatnonzero(is_there.to_numpy()), texts.filter(is_there).to_list())


def _scaled(info: RankingColumnInfo, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    return standardize(log_scale(numbers) if info.log else numbers, info.mean, info.deviation)


def _stack(columns: Sequence[NDArray[Any]], num_rows: int, dtype: Any) -> torch.Tensor:
    """Return columns [B] side by side."""
    matrix = np.empty((num_rows, len(columns)), dtype=dtype)
    for number, values in enumerate(columns):
        matrix[:, number] = values
    return torch.from_numpy(matrix)
