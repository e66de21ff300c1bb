"""Ranked items for a known user or for any history: raw ids in, raw ids out.

A user's history is what the run stores of it, with the context of its events where the model reads
any; the context of the events of a given history is missing. Ties are ordered by ascending dense
item id, as in evaluation. Shapes: B requests, I items, C context columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.context import ContextEncoder, ContextSchema, take_rows
from ensue.data.features import FeatureTable
from ensue.data.histories import Histories, HistoryBatch
from ensue.data.ids import IdMap
from ensue.errors import RunError, UsageError
from ensue.indexes.base import Index
from ensue.indexes.vectors import model_queries
from ensue.models.base import Model
from ensue.runs.requests import (
    NO_ITEMS,
    NOT_FINITE,
    Recommendation,
    Request,
    best_items,
    compiled_best_items,
)
from ensue.runs.retrieve import Best, retrieve

EncodeFeatures = Callable[[Sequence[Mapping[str, Any]]], tuple[FeatureTable, list[str]]]

BLOCK_BYTES = 64 << 20  # scores held at a time
MAX_REQUESTS = 256  # answered at a time


class Recommender:
    """Answers requests with one model. `histories` are those of the known users.

    Args:
        encoder: of context as it is given; None is for models that read none.
        encode_features: returns the features of users given as rows, and unknown values.
    """

    def __init__(
        self,
        model: Model,
        user_ids: IdMap,
        item_ids: IdMap,
        histories: Histories,
        encoder: ContextEncoder | None = None,
        encode_features: EncodeFeatures | None = None,
    ) -> None:
        self.model = model
        self.user_ids, self.item_ids, self.histories = user_ids, item_ids, histories
        self.encoder = encoder or ContextEncoder(ContextSchema(), {})
        self._encode_features = encode_features
        self._best_items = best_items

    def freeze_(self) -> None:
        """Compute ahead and compile what answers need of a model that no longer changes.

        Worth its seconds where many requests come one by one. On a CPU.
        """
        self.model.freeze_()
        self._best_items = compiled_best_items

    def recommend(
        self,
        *,
        users: Sequence[str | int] | None = None,
        histories: Sequence[Sequence[str | int]] | None = None,
        context: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        features: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] | None = None,
        index: Index | None = None,
    ) -> list[Recommendation]:
        """Return one recommendation per user, then one per history.

        An unknown user, an empty history, and one whose items are all unknown get the model's
        answer to an empty history.

        Args:
            context: of the requests, by the names in context_out: one for all, or one for each.
                What it leaves out is missing; values that the log does not have are too, and are
                reported.
            features: of the users, by name, in place of what the run stores of them: one for all
                requests, or one for each. Alone they are one request with an empty history.
            k: at most this many items; fewer where the catalogue or the lists leave fewer.
            exclude_seen: leave out items of the history.
            allow: recommend these items only; items not in the catalogue are ignored.
            deny: never recommend these.
            index: of the model's items, asked in place of scoring all of them. A history that is no
                query, and one for which the index finds too few items that may be shown, is
                answered by scoring all of them.

        Raises:
            UsageError: no request, k < 1, or the context or the features do not fit the requests
                or the model.
        """
        if users is None and histories is None and features is not None:
            histories = [[]] * (1 if isinstance(features, Mapping) else len(features))
        if users is None and histories is None:
            raise UsageError("recommend needs users or histories; got neither.")
        for name, value in (("users", users), ("histories", histories)):
            if isinstance(value, str):
                raise UsageError(f"{name} must be a list; got the string {value!r}.")
        _check_k(k)
        users, histories = users or [], histories or []
        contexts = one_for_each("context", context, len(users) + len(histories))
        requests = [
            *self._of_users(users, contexts[: len(users)]),
            *self._of_histories(histories, contexts[len(users) :]),
        ]
        requests = [
            r._replace(k=k, excluded=r.items if exclude_seen else r.excluded) for r in requests
        ]
        if features is not None:
            given = one_for_each("features", features, len(requests))
            requests = [r._replace(features=f) for r, f in zip(requests, given, strict=True)]
        return self.answer_requests(requests, hidden=self._hidden(allow, deny), index=index)

    def answer(
        self,
        scores: Tensor | None,
        *,
        items: Sequence[str | int],
        user: str | int | None = None,
        unknown_items: Sequence[str] = (),
        unknown_context: Sequence[str] = (),
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] | None = None,
    ) -> Recommendation:
        """Return the recommendation for one history, whose scores [I + 1] may be known already.

        Args:
            scores: None scores the history without any context.
            items: raw ids of the history, all in the catalogue.
            user: whose history it is, known or not.
        """
        _check_k(k)
        request = self.request(
            self.item_ids.to_dense(items),
            user=user,
            unknown_items=unknown_items,
        )
        request = request._replace(
            k=k,
            excluded=request.items if exclude_seen else request.excluded,
            unknown_context=list(unknown_context),
        )
        hidden = self._hidden(allow, deny)
        if scores is None:
            return self.answer_requests([request], hidden=hidden)[0]
        own = scores.float().cpu().clone()[None]
        return self.tell([request], best_items(own, [request], hidden))[0]

    def request(
        self,
        items: NDArray[np.int64],
        *,
        user: str | int | None = None,
        event_context: NDArray[np.float64] | None = None,
        context: Mapping[str, Any] | None = None,
        unknown_items: Sequence[str] = (),
    ) -> Request:
        """Return a request for a history in dense ids, which may get any item.

        Args:
            user: whose history it is, known or not.
            event_context: [n, C] of the items; None is missing in all columns.
            context: of the request, by the names in context_out.
        """
        numbers, unknown = self.encoder.encode_request(context or {})
        return Request(
            user=0 if user is None else int(self.user_ids.to_dense([user])[0]),
            items=items,
            raw_user=None if user is None else str(user),
            unknown_items=list(unknown_items),
            event_context=self._missing(len(items)) if event_context is None else event_context,
            context=numbers,
            unknown_context=unknown,
        )

    def answer_requests(
        self,
        requests: Sequence[Request],
        *,
        hidden: NDArray[np.bool_] | None = None,
        index: Index | None = None,
    ) -> list[Recommendation]:
        """Return the answer to each request; see `find`."""
        return self.tell(requests, self.find(requests, hidden=hidden, index=index))

    def find(
        self,
        requests: Sequence[Request],
        *,
        hidden: NDArray[np.bool_] | None = None,
        index: Index | None = None,
    ) -> list[Best]:
        """Return the dense ids and the scores of each request's best items, best first.

        Args:
            hidden: [I + 1], items that no request may get, item 0 among them; None is item 0 alone.
            index: see `recommend`; a request with a list of allowed items does not ask it.
        """
        hidden = self._hidden(None, None) if hidden is None else hidden
        if index is not None:
            return self._ask(index, requests, hidden)
        size = max(1, min(MAX_REQUESTS, BLOCK_BYTES // (4 * (self.model.num_items + 1))))
        found: list[Best] = []
        for start in range(0, len(requests), size):
            block = requests[start : start + size]
            found += self._best_items(self._score(self._batch(block)), block, hidden)
        return found

    def _of_users(
        self, users: Sequence[str | int], contexts: Sequence[Mapping[str, Any]]
    ) -> list[Request]:
        dense = self.user_ids.to_dense(users)
        rows, offsets = self.histories.rows(dense)
        items = self.histories.items[rows].astype(np.int64)
        of_events = take_rows(self.histories.event_context, rows)
        bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        each = zip(users, dense.tolist(), bounds, contexts, strict=True)
        return [
            Request(
                user,
                items[start:end],
                str(raw),
                [],
                of_events[start:end],
                *self.encoder.encode_request(context),
            )
            for raw, user, (start, end), context in each
        ]

    def _of_histories(
        self, histories: Sequence[Sequence[str | int]], contexts: Sequence[Mapping[str, Any]]
    ) -> list[Request]:
        requests = []
        for history, context in zip(histories, contexts, strict=True):
            dense = self.item_ids.to_dense(history)
            unknown = [str(raw) for raw, item in zip(history, dense, strict=True) if item == 0]
            requests.append(self.request(dense[dense > 0], context=context, unknown_items=unknown))
        return requests

    def _missing(self, num_events: int) -> NDArray[np.float64]:
        """Return the context [n, C] of events that nothing is known of."""
        if not self.encoder.schema.event:
            return np.empty((num_events, 0))
        return np.tile(self.encoder.encode_event({})[0], (num_events, 1))

    def _hidden(
        self, allow: Iterable[str | int] | None, deny: Iterable[str | int] | None
    ) -> NDArray[np.bool_]:
        """Return which items [I + 1] no request may get."""
        hidden = np.full(self.model.num_items + 1, allow is not None)
        if allow is not None:
            hidden[self.item_ids.to_dense(allow)] = False
        if deny is not None:
            hidden[self.item_ids.to_dense(deny)] = True
        hidden[0] = True
        return hidden

    def _ask(
        self, index: Index, requests: Sequence[Request], hidden: NDArray[np.bool_]
    ) -> list[Best]:
        """Return what an index finds, and the model for requests that it leaves open."""
        found: list[Best | None] = [None] * len(requests)
        asked = [place for place, request in enumerate(requests) if request.allowed is None]
        for start in range(0, len(asked), MAX_REQUESTS):
            places = asked[start : start + MAX_REQUESTS]
            part = [requests[place] for place in places]
            queries = model_queries(self.model, self._batch(part))
            if not np.isfinite(queries).all():
                raise RunError(NOT_FINITE)
            widest = max(request.k for request in part)
            of_index = retrieve(index, queries, [r.excluded for r in part], hidden, widest)
            for place, request, best in zip(places, part, of_index, strict=True):
                if best is not None:
                    found[place] = best[0][: request.k], best[1][: request.k]
        is_open = [r for r, best in zip(requests, found, strict=True) if best is None]
        rest = iter(self.find(is_open, hidden=hidden))
        return [next(rest) if best is None else best for best in found]

    def _batch(self, requests: Sequence[Request]) -> HistoryBatch:
        """Return what the model reads of the requests."""
        max_len = self.model.max_len
        first = [0 if max_len is None else max(len(r.items) - max_len, 0) for r in requests]
        read = [r.items[start:] for r, start in zip(requests, first, strict=True)]
        context: dict[str, Any] = {}
        if not self.model.context.is_empty:
            pairs = zip(requests, first, strict=True)
            context["event_context"] = [r.event_context[start:] for r, start in pairs]
            context["request_context"] = [r.context for r in requests]
        if self._encode_features and requests[0].features is not None:
            rows = [r.features or {} for r in requests]
            context["user_features"], unknown = self._encode_features(rows)
            for request, row in zip(requests, rows, strict=True):
                if unknown:  # some request's: whose?
                    request.unknown_context.extend(self._encode_features([row])[1])
        return HistoryBatch.from_lists(read, users=[r.user for r in requests], **context)

    def tell(self, requests: Sequence[Request], found: Sequence[Best]) -> list[Recommendation]:
        """Return the answers in raw ids."""
        ids = [NO_ITEMS, *(ids for ids, _ in found)]
        raw = iter(self.item_ids.to_raw(np.concatenate(ids)))  # of all requests in one go
        return [
            request.tell(list(islice(raw, len(ids))), scores.tolist())
            for request, (ids, scores) in zip(requests, found, strict=True)
        ]

    def _score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1], which may be written to."""
        model = self.model
        if model.training:  # to say it again would walk through all modules
            model.eval()
        tensors = chain(model.parameters(), model.buffers(), _stored(model))
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        with torch.no_grad():
            scores = model.score(batch if device.type == "cpu" else batch.to(device)).float().cpu()
        return scores


def _stored(model: Model) -> Iterator[Tensor]:
    """Yield what a model stores that is neither parameter nor buffer: tables that grow."""
    yield from model.state_dict().values()


def _check_k(k: int) -> None:
    if k < 1:
        raise UsageError(f"recommend needs k >= 1; got {k}.")


def one_for_each(
    name: str, context: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, num_requests: int
) -> Sequence[Mapping[str, Any]]:
    """Return the context, or what else `name` says, of each request."""
    if context is None or isinstance(context, Mapping):
        return [context or {}] * num_requests
    if isinstance(context, str) or not all(isinstance(values, Mapping) for values in context):
        raise UsageError(
            f"{name} must map names to values, as in {{'page': 'home'}}; got {context!r}."
        )
    if len(context) != num_requests:
        raise UsageError(
            f"{name} must be one for all requests or one for each of {num_requests}; "
            f"got {len(context)}."
        )
    return context
