"""From log files to a dataset directory, in memory that does not grow with the input.

Rows are read in chunks, checked, and kept as fixed-width columns, on disk once they are many.
Filters turn one such store into the next. Then the rows are sorted, one part of the users at a
time, and appended to the dataset. Only the tables of distinct ids are in memory as a whole.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ensue.data.clean import Cleaner
from ensue.data.dataset import Dataset, DatasetInfo
from ensue.data.feature_store import Side
from ensue.data.feature_tables import (
    FeatureSource,
    describe_sources,
    open_feature_sources,
    write_features,
)
from ensue.data.filters import Filter, parse_filters
from ensue.data.graph_tables import (
    GraphSource,
    describe_graph,
    graph_notes,
    open_graph_sources,
    write_graphs,
)
from ensue.data.inputs import Choice, Input, PathOrPaths, describe_inputs, open_inputs
from ensue.data.row_store import RowStore
from ensue.data.splits import Split, fix_cutoffs, parse_split
from ensue.data.writer import write_tables
from ensue.errors import DataError, UsageError
from ensue.files import atomic_directory, write_json
from ensue.progress import note, track

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_LEAST_MEMORY = 16e6
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def prepare(
    inputs: PathOrPaths | Mapping[str, PathOrPaths],
    out: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    labels: str | Sequence[str] = (),
    context: str | Sequence[str] = (),
    format: str | None = None,
    delimiter: str | None = None,
    filters: str | Sequence[str] = (),
    split: str | None = None,
    items: PathOrPaths | None = None,
    users: PathOrPaths | None = None,
    features: Mapping[str, str] | None = None,
    graphs: Mapping[str, PathOrPaths] | None = None,
    graph_columns: Mapping[str, str] | None = None,
    memory: str | int = "2GB",
    name: str | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Return the dataset made of log files, written to the folder `out`.

    Args:
        inputs: files and folders of Parquet files; or those of "train", "validation" and "test".
        user, item, time, labels: input columns; by default those with a usual name.
        context: more input columns to keep; "zip:text" keeps numbers as text.
        format: one of data.readers.FORMATS; by default told by content.
        delimiter: between the columns of text; by default sniffed.
        filters: see data.filters; applied in this order.
        split: see data.splits; "files" where `inputs` names the parts, else "leave-one-out".
        items, users: tables with an id and features, and for items titles for people to read; of
            several tables each adds its features.
        features: column of these tables -> its role, see data.feature_roles; by default told by the
            first rows. "items.NAME" and "users.NAME" are columns of that side alone; a role may
            name what splits text, as in "multi:;".
        graphs: name -> table of edges between users, items and entities of other types.
        graph_columns: name of a graph -> its columns, as "user_id,friend_id:user,weight=calls";
            by default told by their names, see data.graph_roles.
        memory: bytes for the work, beside the interpreter and its libraries: "500MB", "4GB".
        name: of the dataset; by default that of its folder.

    Raises:
        DataError: an input cannot be used, nothing is left of it, or the disk is full.
        UsageError: an argument has no meaning, or `out` may not be written.
    """
    memory_bytes = parse_memory(memory)
    wanted = parse_split(split, has_files=isinstance(inputs, Mapping))
    choice = Choice(user, item, time, _as_list(labels), _as_list(context))
    with (
        full_disk_is_data_error(Path(out)),
        atomic_directory(out, marker="dataset.json", overwrite=overwrite) as folder,
    ):
        files = open_inputs(inputs, choice, format=format, delimiter=delimiter)
        note(describe_inputs(files))
        sources = _open_features(items, users, features, files[0])
        edge_tables = _open_graphs(graphs or {}, graph_columns or {}, files[0])
        has_time = files[0].roles.time is not None
        if wanted.kind == "time" and not has_time:
            raise UsageError("split 'time' needs times, and the log has no time column.")
        parsed = parse_filters(
            _as_list(filters), labels=list(files[0].roles.labels), has_time=has_time
        )
        info = _build(folder, files, parsed, wanted, memory_bytes)
        found = write_graphs(folder, edge_tables, folder / "work", memory_bytes)
        shutil.rmtree(folder / "work", ignore_errors=True)
        notes = [*info.notes, *graph_notes(found, info.split)]
        named = {
            "notes": notes,
            "graphs": {graph: of.model_dump() for graph, of in found.items()},
            "name": name or Path(out).resolve().name,
            "sources": _sources(inputs),
            "features": {side: _add_features(folder, side, of) for side, of in sources.items()},
        }
        write_json(folder / "dataset.json", {**info.model_dump(), **named})
    for text in notes:
        note(f"Note: {text}")
    return Dataset(out)


def parse_memory(text: str | int) -> int:
    """Return a number of bytes.

    >>> parse_memory("4GB"), parse_memory("500 mb")
    (4000000000, 500000000)

    Raises:
        UsageError: it is no size, or less than 16 MB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", str(text).lower())
    if not match or float(match[1]) * _UNITS[match[2]] < _LEAST_MEMORY:
        raise UsageError(f"memory is a size of 16MB or more, such as 500MB or 4GB; got {text!r}.")
    return int(float(match[1]) * _UNITS[match[2]])


def _build(
    folder: Path,
    files: Sequence[Input],
    filters: Sequence[Filter],
    split: Split,
    memory_bytes: int,
) -> DatasetInfo:
    """Write the tables of the dataset and return what dataset.json is to say, unnamed."""
    roles = files[0].roles
    work = folder / "work"
    cleaner = Cleaner(roles.text_context, max_integer=memory_bytes // 128)
    store = _read(files, cleaner, split, work, memory_bytes)
    counts = {"read": store.num_rows}
    if not store.num_rows:
        raise DataError(f"an input needs rows; {files[0].table.path} has none.")
    num_users, num_items = (len(cleaner.vocabularies[role]) for role in ("user", "item"))
    for one in filters:
        before = store.num_rows
        store = one.apply(store, num_users, num_items, memory_bytes // 3)
        counts[f"dropped by {one.text}"] = before - store.num_rows
        if not store.num_rows:
            raise DataError(
                f"filters must leave rows; {one.text!r} leaves none of {before}. Loosen it."
            )
    split = fix_cutoffs(split, store)
    written = write_tables(folder, store, cleaner.vocabularies, split, memory_bytes // 3)
    shutil.rmtree(work, ignore_errors=True)
    return DatasetInfo(
        name="",
        sources=[],
        columns=roles.as_dict(),
        labels=list(roles.labels),
        context=list(roles.context),
        time="order" if roles.time is None else "column",
        filters={"applied": [one.text for one in filters]},
        split=split.as_dict(),
        counts={**written.counts, **counts},
        notes=_notes(split, has_time=roles.time is not None),
        hash=written.hash,
    )


def _open_features(
    items: PathOrPaths | None,
    users: PathOrPaths | None,
    features: Mapping[str, str] | None,
    log: Input,
) -> dict[Side, list[FeatureSource]]:
    """Return the tables of items and users, and say what their columns are taken for."""
    given: dict[Side, PathOrPaths | None] = {"items": items, "users": users}
    paths = {side: path for side, path in given.items() if path is not None}
    if features and not paths:
        raise UsageError(
            f"roles are for columns of a table of items or users; got {dict(features)} and no such "
            "table. Pass --items or --users."
        )
    log_columns: dict[Side, str] = {"items": log.roles.item, "users": log.roles.user}
    sources = open_feature_sources(paths, features or {}, log_columns)
    for side, of_side in sources.items():
        for sentence in describe_sources(side, of_side):
            note(sentence)
    return sources


def _open_graphs(
    graphs: Mapping[str, PathOrPaths], columns: Mapping[str, str], log: Input
) -> list[GraphSource]:
    """Return the edge tables, and say what their columns are taken for."""
    sources = open_graph_sources(graphs, columns, log.roles.as_dict())
    for source in sources:
        note(describe_graph(source))
    return sources


def _add_features(folder: Path, side: Side, sources: Sequence[FeatureSource]) -> dict[str, Any]:
    """Write the features of a side, and the titles of items; return what dataset.json says."""
    file = folder / f"{side}.arrow"
    info, titles = write_features(folder, side, sources, pl.read_ipc(file)["raw_id"])
    if titles is not None:
        pl.read_ipc(file).with_columns(titles.alias("title")).write_ipc(file)
    return info.model_dump()


def _read(
    files: Sequence[Input], cleaner: Cleaner, split: Split, work: Path, memory_bytes: int
) -> RowStore:
    """Return all rows of the files, checked, with users and items as codes."""
    roles = files[0].roles
    dtypes: dict[str, np.dtype[np.generic]] = {
        "user": np.dtype(np.int32),
        "item": np.dtype(np.int32),
    }
    if roles.time is not None:
        dtypes["time"] = np.dtype(np.int64)
    if split.kind == "files":
        dtypes["split"] = np.dtype(np.uint8)
    for name in (*roles.labels, *roles.context):
        dtypes[name] = np.dtype(np.int32 if name in roles.text_context else np.float64)
    store = RowStore(dtypes, work / "rows", memory_bytes=memory_bytes // 6)
    chunk_rows = min(max(memory_bytes // 2048, 256), 1 << 20)
    with track("Reading", unit="rows") as advance:
        for file in files:
            for chunk in file.table.read(file.roles.needed, chunk_rows):
                columns = cleaner.clean(chunk, file.roles)
                if split.kind == "files":
                    columns["split"] = np.full(len(columns["user"]), file.part, dtype=np.uint8)
                store.append(columns)
                advance(len(columns["user"]))
    return store


def _as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _sources(inputs: PathOrPaths | Mapping[str, PathOrPaths]) -> list[str]:
    """Return the files and folders as the caller gave them."""
    groups = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return [
        str(path)
        for group in groups
        for path in ([group] if isinstance(group, str | Path) else group)
    ]


def _notes(split: Split, *, has_time: bool) -> list[str]:
    notes = []
    if split.sees_future:
        notes.append(
            f"The split {split.kind} is made user by user, so training rows of some users are "
            "later than test rows of others: a model sees other users' future. A time split does "
            "not."
        )
    if not has_time:
        notes.append("The log has no times: its rows count as oldest first, user by user.")
    return notes


@contextmanager
def full_disk_is_data_error(out: Path) -> Iterator[None]:
    """Turn an error of a full disk into one that says what to do.

    Raises:
        DataError: the disk that holds `out` is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        raise DataError(
            f"the disk must have room for the dataset and for sorting it; the one that holds {out} "
            "is full. Free some space or choose another output; nothing was kept."
        ) from None
