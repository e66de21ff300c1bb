"""Raw rows, as they stand in the tables given to `prepare`, as the batch that a model reads.

Shapes: B rows to encode, V values of a vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ensue.config import make_config
from ensue.data.feature_encoder import read_bags, read_numbers, read_text, read_vectors, value_of
from ensue.data.feature_values import BadValueError, standardize
from ensue.data.ids import IdMap
from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.info import RankingColumnInfo
from ensue.data.ranking.scaling import log_scale
from ensue.data.ranking.schema import RankingSchema, Task
from ensue.data.ranking.value_ids import value_ids
from ensue.errors import RunError, UsageError, did_you_mean
from ensue.files import write_json


class RankingEncoder:
    """Reads values as `prepare` reads them.

    A row has a value for each column, by its name or by those of its sources: columns of tables of
    items and users are given as they stand there, and the history of a log as a list of items,
    oldest first. Other names of the input may be there and are not read.
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
        self._history_length, self._unused = history_length, tuple(unused)
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
        self._check_names(rows)
        unknown: dict[str, None] = {}
        codes: list[NDArray[np.int64]] = []
        numbers, bags, vectors = [], [], []
        for info in self.columns:
            given = [value_of(info.feature, row) for row in rows]
            try:
                if info.kind == "categorical":
                    codes.append(self._codes(info, given, unknown, as_ids=as_ids))
                elif info.kind == "numeric":
                    numbers.append(_scaled(info, given))
                elif info.kind == "vector":
                    vectors.append(torch.from_numpy(read_vectors(info.feature, given)[1:]))
                else:
                    bags.append(self._bag(info, given, unknown, as_ids=as_ids))
            except BadValueError as error:
                raise UsageError(
                    f"column {info.name!r} must hold {error.needed}; row {error.index + 1} has "
                    f"{given[error.index]!r}."
                ) from None
        shape = (len(rows), len(self._tasks))
        batch = RankingBatch(
            codes=_stack(codes, len(rows), np.int64),
            bags=tuple(bags),
            numbers=_stack(numbers, len(rows), np.float32),
            vectors=tuple(vectors),
            labels=torch.full(shape, float("nan")),
            weights=torch.ones(shape),
        )
        return batch, list(unknown)

    def to_dict(self) -> dict[str, Any]:
        """Return the encoder, ready for JSON."""
        return {
            "columns": [info.model_dump() for info in self.columns],
            "tasks": [{"name": task.name, "kind": task.kind} for task in self._tasks],
            "vocabularies": {name: ids.raw.to_list() for name, ids in self._vocabularies.items()},
            "history_length": self._history_length,
            "unused": list(self._unused),
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

    def _codes(
        self,
        info: RankingColumnInfo,
        given: Sequence[Any],
        unknown: dict[str, None],
        *,
        as_ids: bool,
    ) -> NDArray[np.int64]:
        texts = {row: read_text(value, row) for row, value in enumerate(given)}
        there = {row: text for row, text in texts.items() if text is not None}
        codes = np.zeros(len(given), dtype=np.int64)
        found = self._look_up(info, list(there.values()), unknown, as_ids=as_ids)
        codes[np.array(list(there), dtype=np.int64)] = found
        return codes

    def _bag(
        self,
        info: RankingColumnInfo,
        given: Sequence[Any],
        unknown: dict[str, None],
        *,
        as_ids: bool,
    ) -> Bag:
        """Return bags: of a history its last values in order, of others each value once."""
        rows, texts = read_bags(given, info.separator)
        codes = self._look_up(info, texts, unknown, as_ids=as_ids)
        rows, codes = rows[codes != 0], codes[codes != 0]
        if info.kind == "history":
            order = np.argsort(rows, kind="stable")
        else:
            order = np.lexsort((codes, rows))
        rows, codes = rows[order], codes[order]
        if info.kind == "history":
            behind = np.searchsorted(rows, rows, side="right") - np.arange(len(rows))
            is_kept = behind <= self._history_length
        else:
            is_kept = np.ones(len(rows), dtype=np.bool_)
            is_kept[1:] = (np.diff(rows) != 0) | (np.diff(codes) != 0)
        rows, codes = rows[is_kept], codes[is_kept]
        offsets = np.searchsorted(rows, np.arange(len(given) + 1))
        return Bag(torch.from_numpy(codes), torch.from_numpy(offsets.astype(np.int64)))

    def _look_up(
        self,
        info: RankingColumnInfo,
        texts: Sequence[str],
        unknown: dict[str, None],
        *,
        as_ids: bool,
    ) -> NDArray[np.int64]:
        codes = self._vocabularies[info.vocabulary].to_dense(texts)
        unknown.update((f"{info.name}={text}", None) for text in compress(texts, codes == 0))
        return value_ids(info.vocabulary, pl.Series(texts, dtype=pl.String)) if as_ids else codes


def _scaled(info: RankingColumnInfo, given: Sequence[Any]) -> NDArray[np.float32]:
    numbers = read_numbers(given)
    return standardize(log_scale(numbers) if info.log else numbers, info.mean, info.deviation)


def _stack(columns: Sequence[NDArray[Any]], num_rows: int, dtype: Any) -> torch.Tensor:
    """Return columns [B] side by side."""
    matrix = np.empty((num_rows, len(columns)), dtype=dtype)
    for number, values in enumerate(columns):
        matrix[:, number] = values
    return torch.from_numpy(matrix)
