"""From tables of items and users to the features of a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.clean import read_ids
from ensue.data.feature_builders import Builder, Built, Rows, make_builder
from ensue.data.feature_info import FeatureInfo, FeaturesInfo, SourceInfo
from ensue.data.feature_roles import (
    Feature,
    Role,
    TableRoles,
    choose_table_features,
    parse_roles,
)
from ensue.data.feature_store import (
    Side,
    features_folder,
    hash_features,
    values_file,
    write_values,
    write_vocabulary,
)
from ensue.data.feature_values import BadValueError, column_run, to_texts
from ensue.data.inputs import PathOrPaths
from ensue.data.readers import open_tables
from ensue.data.tables import Chunk, Table
from ensue.errors import DataError, UsageError, did_you_mean
from ensue.progress import track

_SAMPLE_ROWS = 10_000
CHUNK_ROWS = 1 << 16


@dataclass(frozen=True)
class FeatureSource:
    """A table of items or users: the files it is in, its first rows, what its columns are."""

    path: str | Path
    files: list[Table]
    roles: TableRoles


def open_feature_sources(
    paths: Mapping[Side, PathOrPaths],
    features: Mapping[str, str],
    log_columns: Mapping[Side, str],
) -> dict[Side, list[FeatureSource]]:
    """Return the tables of each side, with the roles of their columns.

    Args:
        features: column -> role; "items.NAME" and "users.NAME" are columns of that side alone.
        log_columns: what the log calls its items and users.

    Raises:
        DataError: a table cannot be used.
        UsageError: a role has no meaning, or its column is in no table.
    """
    given = parse_roles(features)
    opened = {side: [(path, _open(path)) for path in _as_list(paths[side])] for side in paths}
    columns = {
        side: {name for _, files in tables for name in _names(files[0])}
        for side, tables in opened.items()
    }
    roles = _roles_by_side(given, columns)
    sources = {}
    for side, tables in opened.items():
        sources[side] = [
            FeatureSource(
                path,
                files,
                choose_table_features(
                    files[0], _sample(files, side), side, roles[side], log_columns[side]
                ),
            )
            for path, files in tables
        ]
        _check_distinct(sources[side])
    return sources


def describe_sources(side: Side, sources: Sequence[FeatureSource]) -> list[str]:
    """Return a sentence for each table on what its columns are taken for."""
    sentences = []
    for source in sources:
        roles = source.roles
        parts = [f"id is {roles.id!r}", *([f"title is {roles.title!r}"] if roles.title else [])]
        parts += [f"{one.name!r} is {one.kind} ({one.reason})" for one in roles.features]
        if roles.unused:
            unused = ", ".join(f"{name!r} ({why})" for name, why in roles.unused.items())
            parts.append(f"left out: {unused}")
        sentences.append(f"Reading {side} from {source.path}: {', '.join(parts)}.")
    return sentences


def write_features(
    dataset: Path, side: Side, sources: Sequence[FeatureSource], raw_ids: pl.Series
) -> tuple[FeaturesInfo, pl.Series | None]:
    """Write the features of a side into an unfinished dataset; return what they are, and titles.

    Args:
        raw_ids: [N], in dense-id order.

    The titles [N] are null for an item without one, and None where no table has titles.

    Raises:
        DataError: a table has none of the ids, or a value is not what its column must hold.
    """
    columns: list[FeatureInfo] = []
    tables: list[SourceInfo] = []
    titles: pl.Series | None = None
    for source in sources:
        reading = TableReading(dataset, side, source, raw_ids)
        with track(f"Reading {side}", unit="rows") as advance:
            for file in source.files:
                for chunk in file.read(source.roles.needed, CHUNK_ROWS):
                    reading.add(chunk)
                    advance(len(chunk.rows))
        unused = dict(source.roles.unused)
        for feature, built in reading.build():
            if not built.size:
                unused.update(dict.fromkeys(feature.sources, f"no value for {side} of the log"))
                continue
            reading.write(feature, built, len(columns))
            columns.append(_describe(feature, built))
        tables.append(reading.describe(unused))
        if source.roles.title:
            found = reading.titles()
            titles = found if titles is None else titles.fill_null(found)
    folder = features_folder(dataset, side)
    folder.mkdir(exist_ok=True)
    hashed = hash_features(dataset, side, columns)
    return FeaturesInfo(columns=columns, tables=tables, hash=hashed), titles


class TableReading:
    """The rows of one table on their way into builders.

    builders: of each feature, in their order.
    """

    def __init__(
        self, dataset: Path, side: Side, source: FeatureSource, raw_ids: pl.Series
    ) -> None:
        self._dataset, self._side, self._source = dataset, side, source
        self._known = pl.DataFrame({"raw": raw_ids.cast(pl.String)}).with_row_index("dense", 1)
        num_rows = len(raw_ids) + 1
        features_folder(dataset, side).mkdir(exist_ok=True)
        self.builders: list[tuple[Feature, Builder]] = [
            (feature, make_builder(feature, num_rows, self._file(number)))
            for number, feature in enumerate(source.roles.features)
        ]
        self._titles: list[pl.DataFrame] = []
        self._is_found = np.zeros(num_rows, dtype=np.bool_)
        self._counts = {"rows": 0, "unknown_rows": 0, "repeated_rows": 0}

    def add(self, chunk: Chunk) -> None:
        """Add the rows of ids that the log has."""
        roles = self._source.roles
        raw = read_ids(chunk, roles.id, self._side.removesuffix("s")).cast(pl.String)
        frame = raw.alias("raw").to_frame()
        joined = frame.join(self._known, on="raw", how="left", maintain_order="left")
        dense = joined["dense"].fill_null(0).to_numpy().astype(np.int64)
        places = np.flatnonzero(dense)
        rows = dense[places]
        num_found = int(self._is_found.sum())
        self._is_found[rows] = True
        self._counts["rows"] += len(dense)
        self._counts["unknown_rows"] += len(dense) - len(rows)
        self._counts["repeated_rows"] += len(rows) - (int(self._is_found.sum()) - num_found)
        known = chunk.rows[places]
        if roles.title:
            titles = self._read_titles(chunk, places, known[roles.title])
            self._titles.append(pl.DataFrame({"dense": rows, "title": titles}).drop_nulls())
        for feature, builder in self.builders:
            try:
                builder.add(rows, [known[name] for name in feature.sources])
            except BadValueError as error:
                raise self._bad_value(chunk, places, feature.name, feature.sources, error) from None

    def build(self) -> Iterator[tuple[Feature, Built]]:
        """Yield each feature, finished.

        Raises:
            DataError: the table has none of the ids.
        """
        if not self._is_found.any():
            one = "a user" if self._side == "users" else "an item"
            raise DataError(
                f"the table of {self._side} must have {self._side} of the log; "
                f"{self._source.path} has none of them in its column {self._source.roles.id!r}. "
                f"Say which column holds {one} with --feature NAME=id."
            )
        for feature, builder in self.builders:
            yield feature, builder.build()

    def write(self, feature: Feature, built: Built, number: int) -> None:
        """Write a finished feature as column `number`."""
        if feature.kind == "vector":  # is in its file already
            place = [one for one, _ in self.builders].index(feature)
            os.replace(self._file(place), values_file(self._dataset, self._side, number))
        else:
            write_values(self._dataset, self._side, number, built.values)
        if built.vocabulary is not None:
            write_vocabulary(self._dataset, self._side, number, built.vocabulary)

    def titles(self) -> pl.Series:
        """Return the title of each id [N], null where it has none."""
        found = pl.concat(self._titles).unique("dense", keep="first")
        dense = self._known.select(pl.col("dense").cast(pl.Int64))
        return dense.join(found, on="dense", how="left", maintain_order="left")["title"]

    def describe(self, unused: Mapping[str, str]) -> SourceInfo:
        """Return what dataset.json says of the table."""
        return SourceInfo(
            path=str(self._source.path),
            id=self._source.roles.id,
            title=self._source.roles.title,
            unused=dict(unused),
            found=int(self._is_found.sum()),
            **self._counts,
        )

    def _file(self, number: int) -> Path:
        return features_folder(self._dataset, self._side) / f"vectors-{number}.npy"

    def _read_titles(self, chunk: Chunk, places: Rows, values: pl.Series) -> pl.Series:
        try:
            return to_texts(values)
        except BadValueError as error:
            name = values.name
            raise self._bad_value(chunk, places, name, (name,), error) from None

    def _bad_value(
        self,
        chunk: Chunk,
        places: NDArray[np.int64],
        name: str,
        columns: Sequence[str],
        error: BadValueError,
    ) -> DataError:
        index = int(places[error.index])
        values = [chunk.rows[column][index] for column in columns]
        return DataError(
            f"feature {name!r} of {self._side} must hold {error.needed}; {chunk.place(index)} has "
            f"{values[0] if len(values) == 1 else values!r}. Repair it, or say what the column is "
            f"with --feature {name}=ROLE."
        )


def _describe(feature: Feature, built: Built) -> FeatureInfo:
    return FeatureInfo(
        name=feature.name,
        kind=feature.kind,
        size=built.size,
        sources=list(feature.sources),
        separator=feature.separator,
        mean=built.mean,
        deviation=built.deviation,
        missing=built.missing,
        reason=feature.reason,
    )


def _open(path: str | Path) -> list[Table]:
    files = open_tables([path])
    if files[0].is_ordered:  # values of several words look like histories of different lengths
        files = open_tables([path], format="delimited")
    for file in files:
        if set(file.columns) != set(files[0].columns):
            raise DataError(
                f"all files of a table must have the same columns; {files[0].path} has "
                f"{files[0].columns} and {file.path} has {file.columns}."
            )
    if len(files[0].columns) < 2:
        raise DataError(
            f"a table of items or users has ids and something else; {files[0].path} has one column."
        )
    return files


def _names(table: Table) -> set[str]:
    """Return the names that a role can be given to: columns, and vectors in several columns."""
    runs = [found[0] for name in table.columns if (found := column_run(name))]
    return {*table.columns, *runs}


def _roles_by_side(
    given: Mapping[str, Role], columns: Mapping[Side, set[str]]
) -> dict[Side, dict[str, Role]]:
    """Return the roles of each side's columns; what names a side counts more than what does not."""
    roles: dict[Side, dict[str, Role]] = {side: {} for side in columns}
    known = {name for names in columns.values() for name in names}
    for name, role in given.items():
        side, dot, rest = name.partition(".")
        if name in known:
            for one, names in columns.items():
                if name in names:
                    roles[one].setdefault(name, role)
        elif dot and side in columns and rest in columns[side]:  # type: ignore[index]
            roles[side][rest] = role  # type: ignore[index]
        else:
            raise UsageError(
                f"roles are given to columns of the tables of items and users; {name!r} is none."
                + did_you_mean(name, sorted(known))
            )
    return roles


def _sample(files: Sequence[Table], side: Side) -> pl.DataFrame:
    """Return the first rows."""
    parts: list[pl.DataFrame] = []
    for file in files:
        for chunk in file.read(file.columns, _SAMPLE_ROWS):
            parts.append(chunk.rows.head(_SAMPLE_ROWS))
            if sum(map(len, parts)) >= _SAMPLE_ROWS:
                return pl.concat(parts, how="vertical_relaxed")
    if not sum(map(len, parts)):
        raise DataError(f"a table of {side} needs rows; {files[0].path} has none.")
    return pl.concat(parts, how="vertical_relaxed")


def _check_distinct(sources: Sequence[FeatureSource]) -> None:
    """Check that no feature is in two tables of a side."""
    home: dict[str, FeatureSource] = {}
    for source in sources:
        for feature in source.roles.features:
            if (other := home.setdefault(feature.name, source)) is not source:
                raise UsageError(
                    f"a feature is in one table; {feature.name!r} is in {other.path} and in "
                    f"{source.path}. Rename it in one of them."
                )


def _as_list(paths: PathOrPaths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)
