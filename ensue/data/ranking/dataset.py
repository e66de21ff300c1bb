"""A ranking dataset on disk: rows of features with labels, memory-mapped, in the order of time.

data.ranking.arrays says which files it has. Shapes: R rows, B rows of a batch, V values of a
vocabulary.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from ensue.data.ranking.arrays import load
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.info import FORMAT, RankingColumnInfo, RankingInfo
from ensue.data.ranking.schema import RankingSchema
from ensue.data.ranking.stored import StoredBag, StoredRows, StoredVector
from ensue.errors import DataError, UsageError, did_you_mean

RankingPart = Literal["train", "validation", "test", "train+validation"]


class RankingDataset:
    """A ranking dataset, opened. Arrays are memory-mapped and read-only.

    path: its folder; info: what dataset.json says; schema: its columns and tasks.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = _read_info(self.path)
        self.schema: RankingSchema = self.info.schema_of_rows

    def bounds(self, part: RankingPart) -> tuple[int, int]:
        """Return the first row of a part, and the one behind its last.

        Raises:
            UsageError: there is no such part.
        """
        if part not in get_args(RankingPart):
            raise UsageError(
                f"part {part!r} is unknown.{did_you_mean(part, get_args(RankingPart))}"
            )
        names = part.split("+")
        return self.info.parts[names[0]][0], self.info.parts[names[-1]][1]

    def num_rows(self, part: RankingPart) -> int:
        """Return the number of rows of a part."""
        first, end = self.bounds(part)
        return end - first

    def rows(self, index: NDArray[np.int64] | slice, *, as_ids: bool = False) -> RankingBatch:
        """Return some rows of the whole dataset as tensors.

        Args:
            index: [B] row numbers, or a slice of them.
            as_ids: give the 64-bit ids of values in place of their codes.
        """
        return self.stored.batch(index, as_ids=as_ids)

    def groups(self, index: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Return what GAUC groups rows by: a code of each row [B] of the group column; 0 is none.

        Raises:
            DataError: the dataset has no groups.
        """
        if self.info.group is None:
            raise DataError(
                f"groups of rows need a column of users or one with the role group; {self.path} "
                "has neither. Run ensue prepare with --user NAME or --feature NAME=group."
            )
        column = self._code_columns.index(self.info.group)
        groups: NDArray[np.int64] = self.stored.codes[index, column].astype(np.int64)
        return groups

    def times(self, index: NDArray[np.int64] | slice) -> NDArray[np.int64] | None:
        """Return the times of rows [B] in microseconds; None where the input has none."""
        if self.info.time is None:
            return None
        times: NDArray[np.int64] = np.array(load(self.path / "times.npy")[index])
        return times

    def values(self, vocabulary: str) -> pl.Series:
        """Return the raw values [V] of the codes 1..V of a vocabulary."""
        return self._vocabulary(vocabulary)["raw_id"]

    def value_ids(self, vocabulary: str) -> NDArray[np.int64]:
        """Return the 64-bit id of each code [V + 1]; 0 of code 0. See data.ranking.value_ids."""
        return _behind_zero(self._vocabulary(vocabulary)["id"])

    def train_counts(self, vocabulary: str) -> NDArray[np.int64]:
        """Return the number of training rows of each code [V + 1]; 0 of code 0.

        Those of the column with that name: a history that shares its values adds nothing.
        """
        return _behind_zero(self._vocabulary(vocabulary)["train_count"])

    @cached_property
    def stored(self) -> StoredRows:
        """All rows as arrays."""
        ids = [self.value_ids(column.vocabulary) for column in self.schema.of_kind("categorical")]
        weights = list(dict.fromkeys(t.weight for t in self.info.tasks if t.weight is not None))
        starts = np.cumsum([0, *map(len, ids)], dtype=np.int64)[:-1]
        bags = [one for one in self.info.columns if one.kind in ("multi", "history")]
        vectors = [one for one in self.info.columns if one.kind == "vector"]
        return StoredRows(
            codes=load(self.path / "codes.npy"),
            num_features=len(ids),
            numbers=load(self.path / "numbers.npy"),
            labels=load(self.path / "labels.npy"),
            weights=load(self.path / "weights.npy"),
            weight_of_task=np.array(
                [weights.index(t.weight) if t.weight else -1 for t in self.info.tasks],
                dtype=np.int64,
            ),
            bags=tuple(self._bag(number, one) for number, one in enumerate(bags)),
            vectors=tuple(
                StoredVector(load(self.path / f"vector-{number}.npy"), self._by(one))
                for number, one in enumerate(vectors)
            ),
            ids=np.concatenate([np.empty(0, dtype=np.int64), *ids]),
            id_starts=starts,
        )

    def _bag(self, number: int, info: RankingColumnInfo) -> StoredBag:
        return StoredBag(
            load(self.path / f"bag-{number}.values.npy"),
            load(self.path / f"bag-{number}.ends.npy"),
            load(self.path / f"bag-{number}.lengths.npy"),
            self.value_ids(info.vocabulary),
            self._by(info),
        )

    def _by(self, info: RankingColumnInfo) -> int | None:
        """Return the column of codes that a column of a table of items or users is joined by."""
        name = {"items": self.info.item, "users": self.info.user}.get(info.table)
        return None if name is None else self._code_columns.index(name)

    @cached_property
    def _code_columns(self) -> list[str]:
        """The columns of codes.npy."""
        names = [column.name for column in self.schema.of_kind("categorical")]
        ids = [self.info.user, self.info.item, self.info.group]
        return list(dict.fromkeys([*names, *(name for name in ids if name is not None)]))

    @cached_property
    def _vocabularies(self) -> dict[str, Path]:
        return {
            name: self.path / f"vocabulary-{number}.arrow"
            for number, name in enumerate(self.info.vocabularies)
        }

    def _vocabulary(self, name: str) -> pl.DataFrame:
        if name not in self._vocabularies:
            raise UsageError(
                f"{self.path} has no vocabulary {name!r}."
                + did_you_mean(name, list(self._vocabularies))
            )
        return pl.read_ipc(self._vocabularies[name])


def _read_info(path: Path) -> RankingInfo:
    file = path / "dataset.json"
    if not file.is_file():
        raise DataError(
            f"a ranking dataset is a folder with a dataset.json; {path} has none. Make one with "
            "ensue prepare --target."
        )
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw.get("kind") != "ranking":
            raise DataError(
                f"a ranking dataset is needed; {path} holds interactions without targets. Run "
                "ensue prepare with --target, or open it with Dataset."
            )
        if raw.get("format") != FORMAT:
            raise DataError(
                f"{file} has format {raw.get('format')!r}, this version reads {FORMAT}. "
                "Run ensue prepare again."
            )
        return RankingInfo(**raw)
    except (json.JSONDecodeError, ValidationError, AttributeError) as error:
        raise DataError(f"{file} must be what ensue prepare wrote; it is not: {error}") from None


def _behind_zero(values: pl.Series) -> NDArray[np.int64]:
    return np.append(np.int64(0), values.to_numpy().astype(np.int64))
