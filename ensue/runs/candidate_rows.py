"""Scores of candidates by a ranking model: a row of each request with each of its candidates.

What a row says of the request is encoded once for each request, what it says of the item once for
the whole catalogue; a batch of rows is taken from both by number.
Shapes: I items of the retriever, R requests, N rows; C categorical, K numeric columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.columns import find_usual, recognize
from ensue.data.feature_values import to_texts
from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.info import RankingColumnInfo
from ensue.data.ranking.schema import RankingKind
from ensue.data.readers import open_tables
from ensue.errors import RunError, UsageError, did_you_mean
from ensue.runs.candidate_scores import RankRequest, Scored
from ensue.runs.ranker import PREDICT_ROWS, RankingRun
from ensue.runs.requests import NOT_FINITE

READ_ROWS = 1 << 16  # of a table, at a time


class IdColumns(NamedTuple):
    """The columns of a ranker's rows that hold users and items; None where it reads none."""

    user: str | None
    item: str | None


class RowScorer:
    """A ranking model, whose prediction for one task is the score.

    Columns of the item are filled from `items`, the column of users with the request's user, and
    the history of a log with its history. All others are read from the request's context and
    features.

    Args:
        items: raw_id and columns of the retriever's items, in the order of dense ids 1..I.
        columns: which hold the ids.
        task: None is the first one.
    """

    costs_by_request = False

    def __init__(
        self, run: RankingRun, items: pl.DataFrame, columns: IdColumns, task: str | None
    ) -> None:
        self._model, self._encoder, self._user = run.model, run.encoder, columns.user
        self._task = _find_task(run, task)
        as_ids = self._model.reads_ids
        infos = [info for info in self._encoder.columns if info.name != columns.user]
        table = _with_ids(items, columns.item)
        self._histories = [info for info in infos if info.table == "log"]
        of_items = {
            info.name
            for info in infos
            if info.table in ("rows", "items") and info.is_in(table.columns)
        }
        if not of_items:
            raise UsageError(
                "a ranker must read something of the items that it ranks; of the columns of "
                f"{run.path}, {[info.name for info in infos]}, none is of the items. Name the one "
                "of their ids with --item-column (item_column=...)."
            )
        with_none = pl.concat([table.clear(1), table])  # row 0 is no item
        self._items = self._encoder.select(of_items).encode_table(with_none, as_ids=as_ids)
        raw_items = items["raw_id"].to_list()
        self._codes = {
            info.name: np.concatenate(
                [[0], self._encoder.codes(info.vocabulary, raw_items, as_ids=as_ids)]
            )
            for info in self._histories
        }
        filled = {*of_items, *(info.name for info in self._histories)}
        of_requests = [info for info in self._encoder.columns if info.name not in filled]
        self._requests = self._encoder.select({info.name for info in of_requests})
        self._is_of_item = {info.name: info.name in of_items for info in self._encoder.columns}
        schema = self._encoder.schema
        self._places = {
            kind: _places([self._is_of_item[column.name] for column in schema.of_kind(kind)])
            for kind in get_args(RankingKind)
        }
        names = {name for info in of_requests for name in (info.name, *info.sources)}
        others = {*self._encoder.unused} - filled  # ids are there as well
        self.context_names = self.feature_names = frozenset(names | others)
        self.missing_columns = [info.name for info in of_requests if info.name != columns.user]

    def score(
        self, requests: Sequence[RankRequest], candidates: Sequence[NDArray[np.int64]]
    ) -> Scored:
        """Return the scores of each request's candidates."""
        owners = np.repeat(np.arange(len(requests)), [len(ids) for ids in candidates])
        rows_of = torch.from_numpy(owners)
        items = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *candidates]))
        given, unknown = self._requests.encode_each(
            [self._row(request) for request in requests], as_ids=self._model.reads_ids
        )
        histories = {info.name: self._history(info, requests) for info in self._histories}
        parts = [torch.empty(0)]
        with torch.no_grad():
            for first in range(0, len(items), PREDICT_ROWS):
                block = slice(first, first + PREDICT_ROWS)
                batch = self._rows(given, histories, rows_of[block], items[block])
                parts.append(self._model.predict(batch)[:, self._task])
        scores = torch.cat(parts).numpy()
        if not np.isfinite(scores).all():
            raise RunError(NOT_FINITE)
        for request, values in zip(requests, unknown, strict=True):
            if (user := f"{self._user}={request.user}") in values:
                values.remove(user)  # it is no value of the context
        return Scored(scores, unknown)

    def _row(self, request: RankRequest) -> dict[str, Any]:
        """Return what a request gives, by name."""
        user = {} if self._user is None else {self._user: request.user}
        return {**user, **(request.features or {}), **(request.context or {})}

    def _history(self, info: RankingColumnInfo, requests: Sequence[RankRequest]) -> Bag:
        """Return the histories of requests as the column of a log's histories holds them."""
        lengths = [len(request.history) for request in requests]
        items = np.concatenate([np.empty(0, dtype=np.int64), *(r.history for r in requests)])
        rows = np.repeat(np.arange(len(requests)), lengths)
        return self._encoder.bag(info, rows, self._codes[info.name][items], len(requests))

    def _rows(
        self, given: RankingBatch, histories: dict[str, Bag], owners: Tensor, items: Tensor
    ) -> RankingBatch:
        """Return the rows of items [N] with the requests [N] that they are candidates of.

        Args:
            given: what the requests say. histories: the columns of a log's histories.
        """
        own, schema = self._items, self._encoder.schema
        bags, vectors = [], []
        of_items, of_requests = iter(own.bags), iter(given.bags)
        for column in schema.of_kind("multi", "history"):
            if column.name in histories:
                bags.append(histories[column.name].take(owners))
            elif self._is_of_item[column.name]:
                bags.append(next(of_items).take(items))
            else:
                bags.append(next(of_requests).take(owners))
        item_vectors, request_vectors = iter(own.vectors), iter(given.vectors)
        for column in schema.of_kind("vector"):
            if self._is_of_item[column.name]:
                vectors.append(next(item_vectors).index_select(0, items))
            else:
                vectors.append(next(request_vectors).index_select(0, owners))
        shape = (len(items), len(schema.tasks))
        return RankingBatch(
            codes=self._side_by_side("categorical", own.codes, given.codes, items, owners),
            bags=tuple(bags),
            numbers=self._side_by_side("numeric", own.numbers, given.numbers, items, owners),
            vectors=tuple(vectors),
            labels=torch.full(shape, torch.nan),
            weights=torch.ones(shape),
        )

    def _side_by_side(
        self,
        kind: RankingKind,
        of_items: Tensor,
        of_requests: Tensor,
        items: Tensor,
        owners: Tensor,
    ) -> Tensor:
        """Return columns of items [N] and of requests [N], n in all, as in the schema [N, n]."""
        own, others = self._places[kind]
        columns = of_items.new_empty((len(items), len(own) + len(others)))
        columns.index_copy_(1, own, of_items.index_select(0, items))
        return columns.index_copy_(1, others, of_requests.index_select(0, owners))


def _places(is_of_item: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Return the numbers of columns that are of items, and of the others."""
    own = torch.tensor(is_of_item, dtype=torch.bool)
    return own.nonzero().flatten(), (~own).nonzero().flatten()


def find_id_columns(run: RankingRun, *, user: str | None, item: str | None) -> IdColumns:
    """Return the columns of a ranker that hold ids: as named, as they were when its dataset was
    made, or those with a usual name.

    Raises:
        UsageError: a named column is none that holds values of a vocabulary.
        DataError: several columns have a usual name.
    """
    names = [
        info.name
        for info in run.encoder.columns
        if info.kind == "categorical" and info.table == "rows"
    ]
    for name in (user, item):
        if name is not None and name not in names:
            raise UsageError(
                f"ids are in a categorical column of the ranker's rows; {name!r} of {run.path} is "
                "none." + did_you_mean(name, names)
            )
    of_dataset = {role: run.info["dataset"].get(role) for role in ("user", "item")}
    stored = {role: name for role, name in of_dataset.items() if name in names}
    user = user or stored.get("user") or _recognize(names, "user", item, run)
    item = item or stored.get("item") or _recognize(names, "item", user, run)
    return IdColumns(user, item)


def add_columns(items: pl.DataFrame, path: str | Path) -> pl.DataFrame:
    """Return items [I] with the columns of a table of items, as `prepare_ranking` takes one.

    Its rows are found by raw id, the first of each; its columns go before those that are there.

    Raises:
        DataError: the table cannot be read, or which column holds the ids is in doubt.
    """
    parts = [
        chunk.rows for file in open_tables([path]) for chunk in file.read(file.columns, READ_ROWS)
    ]
    table = pl.concat(parts, how="diagonal_relaxed")
    remedy = "Call it item_id there."
    ids = recognize(table.columns, "item", str(path), remedy=remedy)
    table = table.with_columns(to_texts(table[ids]).alias("raw_id")).unique("raw_id", keep="first")
    old = items.select("raw_id", pl.exclude("raw_id", *table.columns))
    return old.join(table, on="raw_id", how="left", maintain_order="left")


def _recognize(names: Sequence[str], role: str, other: str | None, run: RankingRun) -> str | None:
    """Return the one column with a usual name for `role`, not the other one; None of none."""
    free = [name for name in names if name != other]
    if not find_usual(free, role):
        return None
    remedy = f"Name it with --{role}-column ({role}_column=...)."
    return recognize(free, role, f"the rows of {run.path}", remedy=remedy)


def _with_ids(items: pl.DataFrame, item_column: str | None) -> pl.DataFrame:
    """Return items with their raw ids in the column of the ranker that holds ids."""
    if item_column is None:
        return items.drop("raw_id")
    return items.select(pl.col("raw_id").alias(item_column), pl.exclude("raw_id", item_column))


def _find_task(run: RankingRun, task: str | None) -> int:
    """Return the number of a task; that of the first one for None."""
    names = [one.name for one in run.schema.tasks]
    if task is None:
        return 0
    if task not in names:
        raise UsageError(f"{run.path} has no task {task!r}.{did_you_mean(task, names)}")
    return names.index(task)
