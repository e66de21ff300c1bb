"""Requests in Parquet, and their answers as tables; some thousand requests at a time.

A row is a request: `user`, a raw id, or `history`, a list of raw ids; and a column for each part of
the context of a request that is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ensue.data.histories import Histories
from ensue.data.parquet import list_parquet, open_parquet
from ensue.data.tables import Chunk, Table
from ensue.errors import DataError
from ensue.indexes.store import hash_file
from ensue.runs.many import ManyAnswers, ManyRequests
from ensue.runs.recommend import Recommender

_STRINGS = pa.list_(pa.field("element", pa.string()))
_SCORES = pa.list_(pa.field("element", pa.float32()))


@dataclass(frozen=True)
class RequestTable:
    """Where requests are: tables, one after the other, of the same columns.

    kind: "user" or "history".
    user_type: of the column `user` in the answers; None where there is none.
    columns: those of the context of the requests.
    num_rows: of each table.
    digest: tells these requests from any others.
    """

    tables: Sequence[Table]
    kind: str
    user_type: pa.DataType | None
    columns: list[str]
    num_rows: list[int]
    digest: str

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the requests, `size` rows at a time and fewer at the end of a table."""
        for table in self.tables:
            yield from table.read([self.kind, *self.columns], size)

    def chunk_sizes(self, size: int) -> list[int]:
        """Return how many rows each chunk has."""
        return [min(size, n - start) for n in self.num_rows for start in range(0, n, size)]


def open_requests(path: Path, recommender: Recommender) -> RequestTable:
    """Return the requests in a Parquet file, or in those of a folder.

    Raises:
        DataError: there are none, or they have no column or another than a request has, or one of
            a type that ids do not have.
    """
    if path.is_dir():
        tables = [open_parquet(file, root=path) for file in list_parquet(path)]
    else:
        tables = [open_parquet(path)]
    known = [column.name for column in recommender.encoder.schema.request]
    kind = _check_columns(tables[0], known)
    for table in tables[1:]:
        if sorted(table.columns) != sorted(tables[0].columns):
            raise DataError(
                f"the files of a folder must have the same columns; {table.path} has "
                f"{table.columns}, {tables[0].path} has {tables[0].columns}."
            )
    types = [_type_of_ids(table, kind) for table in tables]
    if len(set(types)) > 1:
        raise DataError(
            f"the files of a folder must have ids of one type; column {kind!r} of {path} holds "
            f"{' and '.join(sorted({str(found) for found in types}))}."
        )
    digest = hashlib.sha256()
    for table in tables:
        name = str(table.path.relative_to(path)) if path.is_dir() else ""
        digest.update(f"{name} {hash_file(table.path)}\n".encode())
    return RequestTable(
        tables,
        kind,
        types[0] if kind == "user" else None,
        [name for name in tables[0].columns if name != kind],
        [pq.read_metadata(table.path).num_rows for table in tables],
        digest.hexdigest(),
    )


def all_users(recommender: Recommender, path: Path) -> RequestTable:
    """Return a request for each known user, in the order of their dense ids.

    Args:
        path: of the run.
    """
    raw = recommender.user_ids.raw.rename("user")

    def read(names: Sequence[str], size: int) -> Iterator[Chunk]:
        for start in range(0, len(raw), size):
            yield Chunk(path, raw[start : start + size].to_frame(), lambda index: index + 1)

    return RequestTable(
        [Table(path, ["user"], read)], "user", pa.string(), [], [len(raw)], "all users"
    )


def _check_columns(table: Table, known: Sequence[str]) -> str:
    """Return "user" or "history", whichever a table has, after a look at its other columns."""
    kinds = [name for name in ("user", "history") if name in table.columns]
    if len(kinds) != 1:
        raise DataError(
            "requests must have a column 'user' or a column 'history', not both; "
            f"{table.path} has {table.columns}."
        )
    others = [name for name in table.columns if name not in (*kinds, *known)]
    if others:
        read = f", or context that the model reads ({', '.join(known)})" if known else ""
        raise DataError(
            f"a column of requests must be 'user' or 'history'{read}; {table.path} has {others}. "
            "Leave them out: answers are in the order of the requests."
        )
    return kinds[0]


def _type_of_ids(table: Table, kind: str) -> pa.DataType:
    """Return the type in which ids are written again: that of integers, or text."""
    stored = pl.read_parquet_schema(table.path)
    dtype: Any = stored.get(kind, pl.String)  # a name of a folder is text
    if kind == "history":
        inner = getattr(dtype, "inner", None)
        if inner is None:
            raise DataError(f"histories must be lists of ids; {table.path} holds {dtype}.")
        dtype = inner
    if dtype.is_integer():
        return pl.Series(dtype=dtype).to_arrow().type
    if dtype.base_type() in (pl.String, pl.Categorical, pl.Enum):
        return pa.string()
    raise DataError(
        f"ids must be integers or text; column {kind!r} of {table.path} holds {dtype}. "
        "Cast it before."
    )


class RequestReader:
    """Requests and answers of one job, between tables and arrays.

    Args:
        context: of the requests, by the names in context_out; a column of `table` goes before it.

    Raises:
        UsageError: the context has a name that the model does not read, or no number where one
            must be.
    """

    def __init__(
        self, recommender: Recommender, table: RequestTable, context: Mapping[str, Any]
    ) -> None:
        recommender.encoder.encode_request(context)
        self._recommender, self._table, self._context = recommender, table, context
        self._columns = [column.name for column in recommender.encoder.schema.request]

    @cached_property
    def schema(self) -> pa.Schema:
        """What the answers hold: `user` and `unknown_context` only where requests have them."""
        user_type = self._table.user_type
        return pa.schema(
            [
                *([] if user_type is None else [("user", user_type)]),
                ("items", _STRINGS),
                ("scores", _SCORES),
                ("known", pa.bool_()),
                ("unknown_items", _STRINGS),
                *([("unknown_context", _STRINGS)] if self._columns else []),
            ]
        )

    def read(self, chunk: Chunk) -> tuple[ManyRequests, dict[str, pa.Array]]:
        """Return the requests of a chunk, and the columns that the answers have of them already.

        Raises:
            DataError: an id is missing.
            UsageError: a number of the context is none.
        """
        given = [pl.lit(self._context.get(name)).alias(name) for name in self._columns]
        given = [value for value in given if value.meta.output_name() not in chunk.rows.columns]
        numbers, unknown = self._recommender.encoder.encode_requests(chunk.rows.with_columns(given))
        read = self._users if self._table.kind == "user" else self._histories
        requests, told = read(chunk, numbers)
        if self._columns:
            told["unknown_context"] = unknown.to_arrow().cast(_STRINGS)
        return requests, told

    def write(
        self, requests: ManyRequests, told: Mapping[str, pa.Array], answers: ManyAnswers
    ) -> pa.Table:
        """Return the answers to the requests of a chunk as a table of `schema`."""
        is_answer = answers.items > 0
        ids = pa.array(answers.items[is_answer] - 1)
        counts = is_answer.sum(axis=1)
        columns = {
            **told,
            "items": _lists(self._raw_items.take(ids), counts, _STRINGS),
            "scores": _lists(pa.array(answers.scores[is_answer]), counts, _SCORES),
            "known": pa.array(requests.users > 0),
        }
        return pa.Table.from_arrays(
            [columns[name] for name in self.schema.names], schema=self.schema
        )

    @cached_property
    def _raw_items(self) -> pa.Array:
        return self._recommender.item_ids.raw.to_arrow().cast(pa.string())

    def _users(
        self, chunk: Chunk, context: NDArray[np.float64]
    ) -> tuple[ManyRequests, dict[str, pa.Array]]:
        raw = chunk.rows["user"]
        if raw.null_count():
            raise DataError(
                f"a request must name its user; {chunk.place(raw.is_null().arg_max() or 0)} "
                "has none."
            )
        users = self._recommender.user_ids.find(raw)
        requests = ManyRequests(users, self._recommender.histories, users, context)
        if not raw.dtype.is_integer():
            raw = raw.cast(pl.String)
        none = _lists(pa.array([], pa.string()), np.zeros(len(raw), dtype=np.int64), _STRINGS)
        return requests, {
            "user": raw.to_arrow().cast(self._table.user_type),
            "unknown_items": none,
        }

    def _histories(
        self, chunk: Chunk, context: NDArray[np.float64]
    ) -> tuple[ManyRequests, dict[str, pa.Array]]:
        column = chunk.rows["history"]
        if isinstance(column.dtype, pl.Array):  # lists of one length
            column = column.arr.to_list()
        raw = pl.Series(pl.from_arrow(column.to_arrow().flatten()))
        if column.null_count() or raw.null_count():
            is_missing = column.is_null() | column.list.eval(pl.element().is_null()).list.any()
            raise DataError(
                f"a request must name all items of its history; "
                f"{chunk.place(is_missing.arg_max() or 0)} does not."
            )
        lengths = column.list.len().to_numpy().astype(np.int64)
        items = self._recommender.item_ids.find(raw)
        is_known = items > 0
        requests_of = np.repeat(np.arange(len(column)), lengths)
        counts = np.bincount(requests_of[is_known], minlength=len(column))
        ends = np.cumsum(counts)
        histories = Histories(items[is_known].astype(np.int32), ends - counts, ends)
        unknown = raw.filter(pl.Series(~is_known)).cast(pl.String).to_arrow().cast(pa.string())
        nobody = np.zeros(len(column), dtype=np.int64)
        requests = ManyRequests(nobody, histories, np.arange(len(column)), context)
        return requests, {"unknown_items": _lists(unknown, lengths - counts, _STRINGS)}


def _lists(values: pa.Array, lengths: NDArray[np.int64], kind: pa.ListType) -> pa.Array:
    """Return lists of these lengths [B], whose values lie one after the other."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)
