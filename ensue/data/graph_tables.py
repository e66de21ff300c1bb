"""From edge tables to the graphs of a dataset.

Tables are read in chunks and kept as fixed-width columns, on disk once they are many; then the
edges of one graph at a time are sorted in memory (28 bytes each, and as much again to sort them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.arrow_file import read_columns
from ensue.data.clean import read_ids, to_float
from ensue.data.graph_parts import pair_keys, user_item_keys
from ensue.data.graph_roles import EdgeColumns, check_name, choose_edge_columns
from ensue.data.graph_store import GraphInfo, write_edges, write_entities
from ensue.data.graphs import INTERACTIONS
from ensue.data.ids import IdMap
from ensue.data.inputs import PathOrPaths
from ensue.data.readers import open_tables
from ensue.data.row_store import RowStore
from ensue.data.tables import Chunk, Table
from ensue.data.times import TimeParser
from ensue.data.vocabulary import Vocabulary, dense_ids
from ensue.errors import DataError, UsageError, did_you_mean
from ensue.progress import track

CHUNK_ROWS = 1 << 18


@dataclass(frozen=True)
class GraphSource:
    """An edge table: the files it is in and what its columns are.

    has_time: whether the log has times to compare its times with.
    """

    name: str
    paths: list[str | Path]
    files: list[Table]
    columns: EdgeColumns
    has_time: bool


def open_graph_sources(
    graphs: Mapping[str, PathOrPaths],
    graph_columns: Mapping[str, str],
    log_columns: Mapping[str, str],
) -> list[GraphSource]:
    """Return the edge tables, with the roles of their columns.

    Args:
        graphs: name -> files; graph_columns: name -> columns, see data.graph_roles.
        log_columns: "user", "item" and perhaps "time" -> column of the log.

    Raises:
        DataError: a table cannot be used.
        UsageError: a name or the columns have no meaning.
    """
    for name in graph_columns:
        if name not in graphs:
            raise UsageError(
                f"columns are given for a graph that there is; {name!r} is none."
                f"{did_you_mean(name, graphs)}"
            )
    entities = {kind: log_columns[kind] for kind in ("user", "item")}
    sources = []
    for name, paths in graphs.items():
        check_name(name, "a graph")
        if name == INTERACTIONS:
            raise UsageError(f"a graph cannot be called {name!r}, as the log's own. Rename it.")
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        files = [table for path in listed for table in _open(path)]
        columns = choose_edge_columns(name, files[0], graph_columns.get(name), entities)
        for file in files:
            if missing := set(columns.needed) - set(file.columns):
                raise DataError(
                    f"all files of a graph must have the same columns; {file.path} of {name!r} "
                    f"has no {sorted(missing)}."
                )
        has_time = columns.time is not None and "time" in log_columns
        sources.append(GraphSource(name, listed, files, columns, has_time))
    return sources


def describe_graph(source: GraphSource) -> str:
    """Return a sentence on what the columns of an edge table are taken for."""
    columns = source.columns
    sides = zip((columns.source, columns.target), columns.types, strict=True)
    parts = [f"{column!r} is {kind!r}" for column, kind in sides]
    parts += [f"weight is {columns.weight!r}" if columns.weight else "every edge weighs 1"]
    parts += [f"time is {columns.time!r}" if columns.time else "no time"]
    more = f" and {len(source.files) - 1} more" if len(source.files) > 1 else ""
    return f"Reading the graph {source.name!r} from {source.paths[0]}{more}: {', '.join(parts)}."


def write_graphs(
    dataset: Path, sources: Sequence[GraphSource], work: Path, memory_bytes: int
) -> dict[str, GraphInfo]:
    """Write the graphs into an unfinished dataset, whose users and items are written already.

    Args:
        work: a folder for rows that do not fit into memory.

    Raises:
        DataError: a table has no edge between entities of the log, or a value is not what its
            column must hold.
    """
    known = {kind: IdMap.read(dataset / f"{kind}s.arrow") for kind in ("user", "item")}
    reading = _Reading(known, work, memory_bytes)
    stores = [(source, reading.read(source)) for source in sources]
    dense = reading.number_entities([(source, store) for source, (store, _) in stores], dataset)
    sizes = {kind: len(ids) for kind, ids in known.items()}
    sizes |= {kind: int(ids.max()) for kind, ids in dense.items()}
    infos = {}
    for source, (store, num_rows) in stores:
        num_read = store.num_rows
        types = source.columns.types
        edges = {name: store.column(name) for name in store.dtypes}
        store.clear()
        for kind, side in zip(types, ("source", "target"), strict=True):
            if kind in dense:
                edges[side] = dense[kind][edges[side]]
        edges = _sort(edges)
        infos[source.name] = GraphInfo(
            types=types,
            sizes=(sizes[types[0]], sizes[types[1]]),
            sources=[str(path) for path in source.paths],
            columns=source.columns.as_dict(),
            has_time=source.has_time,
            edges=len(edges["source"]),
            rows=num_rows,
            unknown_rows=num_rows - num_read,
            held_out=_count_held_out(dataset, types, edges, sizes["item"]),
            hash=write_edges(dataset, source.name, edges),
        )
    return infos


def graph_notes(infos: Mapping[str, GraphInfo], split: Mapping[str, Any]) -> list[str]:
    """Return what a reader of any result on these graphs should know."""
    notes = []
    for name, info in infos.items():
        if not info.has_time and split["kind"] != "none":
            why = "the log has no times" if "time" in info.columns else "it has no times"
            notes.append(
                f"All edges of the graph {name} count in every part, as {why}: they may show what "
                "was known only later."
            )
        elif split["kind"] not in ("time", "none"):
            until = (
                "of a user count up to his last row of a part"
                if "user" in info.types
                else "count up to the last row of anyone in a part"
            )
            notes.append(
                f"Edges of the graph {name} {until}, as the split {split['kind']} has no one time: "
                "they may be later than rows that other users are tested on."
            )
        if info.held_out:
            notes.append(
                f"{info.held_out} edges of the graph {name} are pairs of a user and an item that "
                "are held out; they are left out of the parts before."
            )
    return notes


class _Reading:
    """Rows of edge tables as codes: dense ids of users and items, codes of all other types."""

    def __init__(self, known: Mapping[str, IdMap], work: Path, memory_bytes: int) -> None:
        self._known = known
        self._work, self._memory_bytes = work, memory_bytes
        self._vocabularies: dict[str, Vocabulary] = {}

    def read(self, source: GraphSource) -> tuple[RowStore, int]:
        """Return the edges whose users and items the log has, and the number of all rows."""
        columns = source.columns
        dtypes: dict[str, np.dtype[Any]] = {
            "source": np.dtype(np.int32),
            "target": np.dtype(np.int32),
            "weight": np.dtype(np.float32),
        }
        if source.has_time:
            dtypes["time"] = np.dtype(np.int64)
        store = RowStore(dtypes, self._work / source.name, memory_bytes=self._memory_bytes // 6)
        num_rows = 0
        chunk_rows = min(max(self._memory_bytes // 2048, 256), CHUNK_ROWS)
        with track(f"Reading the graph {source.name}", unit="rows") as advance:
            for file in source.files:
                parser = TimeParser(columns.time) if columns.time and source.has_time else None
                for chunk in file.read(columns.needed, chunk_rows):
                    store.append(self._clean(chunk, source, parser))
                    num_rows += len(chunk.rows)
                    advance(len(chunk.rows))
        if not store.num_rows:
            raise DataError(
                f"a graph must have edges of users or items of the log; {source.paths[0]} of "
                f"{source.name!r} has none among its {num_rows} rows. Check what its columns are "
                "taken for, and see --graph-columns."
            )
        return store, num_rows

    def number_entities(
        self, stores: Sequence[tuple[GraphSource, RowStore]], dataset: Path
    ) -> dict[str, NDArray[np.int32]]:
        """Write the raw ids of all other types; return the dense id of each code of theirs."""
        dense = {}
        for kind, vocabulary in self._vocabularies.items():
            is_present = np.zeros(len(vocabulary), dtype=np.bool_)
            for source, store in stores:
                for side, of_side in zip(("source", "target"), source.columns.types, strict=True):
                    if of_side == kind:
                        for chunk in store.chunks([side]):
                            is_present[chunk[side]] = True
            raw, dense[kind] = dense_ids(vocabulary.raw(), is_present)
            write_entities(dataset, kind, raw)
        return dense

    def _clean(
        self, chunk: Chunk, source: GraphSource, parser: TimeParser | None
    ) -> dict[str, NDArray[Any]]:
        """Return the columns of the rows whose users and items the log has."""
        columns = source.columns
        is_known = np.ones(len(chunk.rows), dtype=np.bool_)
        ids: dict[str, pl.Series] = {}
        sides = {"source": columns.source, "target": columns.target}
        for (side, column), kind in zip(sides.items(), columns.types, strict=True):
            ids[side] = read_ids(chunk, column, kind)
            if kind in self._known:
                ids[side] = pl.Series(self._known[kind].find(ids[side]))
                is_known &= ids[side].to_numpy() > 0
        edges: dict[str, NDArray[Any]] = {"weight": _weights(chunk, source)[is_known]}
        if parser is not None:
            edges["time"] = parser.parse(chunk)[is_known]
        for side, kind in zip(sides, columns.types, strict=True):
            kept = ids[side].filter(pl.Series(is_known))
            if kind in self._known:
                edges[side] = kept.to_numpy()
            else:
                vocabulary = self._vocabularies.setdefault(
                    kind, Vocabulary(self._memory_bytes // 128)
                )
                edges[side] = vocabulary.encode(kept)
        return edges


def _open(path: str | Path) -> list[Table]:
    files = open_tables([path])
    if files[0].is_ordered:  # values of several words look like histories of different lengths
        files = open_tables([path], format="delimited")
    return files


def _weights(chunk: Chunk, source: GraphSource) -> NDArray[np.float32]:
    """Return the weights of all rows."""
    column = source.columns.weight
    if column is None:
        return np.ones(len(chunk.rows), dtype=np.float32)
    numbers = to_float(chunk.rows[column]).fill_null(float("nan")).to_numpy()
    with np.errstate(over="ignore"):  # infinity is refused below
        weights: NDArray[np.float32] = numbers.astype(np.float32)
    is_broken = ~(np.isfinite(weights) & (weights > 0))
    if is_broken.any():
        index = int(is_broken.argmax())
        raise DataError(
            f"the weights of a graph must be numbers above 0; {chunk.place(index)} has "
            f"{chunk.rows[column][index]!r} in column {column!r} of {source.name!r}. Repair or "
            "remove that row, or name the columns without a weight with --graph-columns."
        )
    return weights


def _sort(edges: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the edges by source, target and time, the weights of equal rows added up."""
    keys = [edges[name] for name in ("source", "target", "time") if name in edges]
    order = np.lexsort(keys[::-1])
    keys = [key[order] for key in keys]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    starts = np.flatnonzero(is_new)
    weights = np.add.reduceat(edges["weight"][order].astype(np.float64), starts)
    source, target, *times = [key[starts] for key in keys]
    rows = {"source": source, "target": target, "weight": weights.astype(np.float32)}
    return rows | ({"time": times[0]} if times else {})


def _count_held_out(
    dataset: Path, types: tuple[str, str], edges: Mapping[str, NDArray[Any]], num_items: int
) -> int:
    """Return the number of edges that are pairs of the validation or the test part."""
    pairs = pair_keys(types, edges, num_items)
    if pairs is None:
        return 0
    log = read_columns(dataset / "interactions.arrow")
    rows = np.flatnonzero(log["split"])
    held_out = np.unique(user_item_keys(log["user"][rows], log["item"][rows], num_items))
    return int(np.isin(pairs, held_out).sum())
