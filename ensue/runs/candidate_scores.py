"""Scores of candidates that another run has retrieved, by a run that reads the same history.

Candidates and histories come in dense ids of the retriever. Shapes: N candidates of all
requests, B requests, C candidates of the one that has most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import HistoryBatch
from ensue.errors import RunError
from ensue.indexes.vectors import is_product
from ensue.nn.embedding import dot_rows
from ensue.runs.features import encode_features, feature_names
from ensue.runs.recommend import BLOCK_BYTES, MAX_REQUESTS
from ensue.runs.requests import NOT_FINITE
from ensue.runs.run import Run


class RankRequest(NamedTuple):
    """What a request says of itself.

    history: dense ids of the retriever, oldest first.
    user: the raw id; None where there is none.
    context, features: values by name, of those that the ranker reads; None is none.
    """

    history: NDArray[np.int64]
    user: str | None = None
    context: Mapping[str, Any] | None = None
    features: Mapping[str, Any] | None = None


class Scored(NamedTuple):
    """Scores [N], NaN of an item that the ranker does not know; and each request's unknown values.

    The scores of a request's candidates are next to each other, in the order of the requests.
    """

    scores: NDArray[np.float32]
    unknown_context: list[list[str]]


class CandidateScorer(Protocol):
    """The second stage of a cascade.

    costs_by_request: whether its time depends on the requests alone, and not on how many candidates
        they have.
    context_names, feature_names: of the values of a request that it reads.
    missing_columns: those that it reads and only a request can give.
    """

    costs_by_request: bool
    context_names: frozenset[str]
    feature_names: frozenset[str]
    missing_columns: list[str]

    def score(
        self, requests: Sequence[RankRequest], candidates: Sequence[NDArray[np.int64]]
    ) -> Scored:
        """Return the scores of each request's candidates.

        Raises:
            UsageError: a value does not fit its column.
            RunError: a score is not finite.
        """
        ...


class HistoryScorer:
    """A run that reads the same history and scores the candidates, found by their raw ids.

    Of a model whose scores are products it asks for those of the candidates alone.
    """

    costs_by_request = True

    def __init__(self, run: Run, raw_items: Sequence[str]) -> None:
        self._run, self._recommender = run, run.recommender
        own = self._recommender.item_ids.to_dense(raw_items)
        self._own_ids = np.concatenate([np.zeros(1, dtype=np.int64), own])
        self._missing = self._recommender.encoder.encode_event({})[0]
        schema = self._recommender.encoder.schema
        self.context_names = frozenset(column.name for column in schema.request)
        self.feature_names = feature_names(run, "users")
        self.missing_columns = [column.name for column in schema.request]
        model = run.model
        self._device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
        self._table: tuple[Tensor, Tensor | None] | None = None
        self._block = MAX_REQUESTS
        if is_product(model):
            self._table = model.item_table()
        else:
            self._block = max(1, min(MAX_REQUESTS, BLOCK_BYTES // (4 * (model.num_items + 1))))

    def score(
        self, requests: Sequence[RankRequest], candidates: Sequence[NDArray[np.int64]]
    ) -> Scored:
        """Return the scores of each request's candidates."""
        own = [self._own_ids[ids] for ids in candidates]
        score = self._of_all if self._table is None else self._products
        parts, unknown = [np.empty(0, dtype=np.float32)], []
        with torch.no_grad():
            for first in range(0, len(requests), self._block):
                block = slice(first, first + self._block)
                batch, of_block = self._batch(requests[block])
                parts += score(requests[block], batch, own[block])
                unknown += of_block
        scores = np.concatenate(parts)
        is_known = np.concatenate([np.empty(0, dtype=np.int64), *own]) > 0
        if not np.isfinite(scores[is_known]).all():
            raise RunError(NOT_FINITE)
        return Scored(np.where(is_known, scores, np.float32(np.nan)), unknown)

    def _batch(self, requests: Sequence[RankRequest]) -> tuple[HistoryBatch, list[list[str]]]:
        """Return what the model reads of the requests, and their unknown values."""
        recommender, model = self._recommender, self._run.model
        histories = [own[own > 0] for own in (self._own_ids[r.history] for r in requests)]
        if model.max_len is not None:
            histories = [own[max(len(own) - model.max_len, 0) :] for own in histories]
        users = recommender.user_ids.to_dense("" if r.user is None else r.user for r in requests)
        encoded = [recommender.encoder.encode_request(r.context or {}) for r in requests]
        unknown = [list(values) for _, values in encoded]
        parts: dict[str, Any] = {}
        if not model.context.is_empty:
            parts["event_context"] = [np.tile(self._missing, (len(own), 1)) for own in histories]
            parts["request_context"] = [context for context, _ in encoded]
        if any(r.features for r in requests):
            rows = [r.features or {} for r in requests]
            parts["user_features"], found = encode_features(self._run, "users", rows)
            for row, own_unknown in zip(rows, unknown, strict=True):
                if found:  # some request's: whose?
                    own_unknown.extend(encode_features(self._run, "users", [row])[1])
        return HistoryBatch.from_lists(histories, users=users.tolist(), **parts), unknown

    def _products(
        self,
        requests: Sequence[RankRequest],
        batch: HistoryBatch,
        own: Sequence[NDArray[np.int64]],
    ) -> list[NDArray[np.float32]]:
        """Return the scores of each request's candidates, as products of vectors."""
        assert self._table is not None
        table, bias = self._table
        model: Any = self._run.model
        queries, _ = model.queries(batch.to(table.device))
        padded = np.zeros((len(own), max(len(ids) for ids in own)), dtype=np.int64)
        for row, ids in zip(padded, own, strict=True):
            row[: len(ids)] = ids
        places = torch.from_numpy(padded).to(table.device)
        products = dot_rows(queries, table, places)  # [B, C]
        if bias is not None:
            products = products + bias[places]
        scores = products.float().cpu().numpy()
        parts = [scores[row, : len(ids)] for row, ids in enumerate(own)]
        for row in (~queries.any(dim=1)).nonzero().flatten().tolist():  # says nothing: no product
            batch, _ = self._batch([requests[row]])
            (parts[row],) = self._of_all([requests[row]], batch, [own[row]])
        return parts

    def _of_all(
        self,
        requests: Sequence[RankRequest],
        batch: HistoryBatch,
        own: Sequence[NDArray[np.int64]],
    ) -> list[NDArray[np.float32]]:
        """Return the scores of each request's candidates, among those of all items."""
        scores = self._run.model.score(batch.to(self._device)).float().cpu().numpy()
        return [scores[row, ids] for row, ids in enumerate(own)]
