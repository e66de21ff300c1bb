"""One model as it is served: a run, an index, and the items that were added to its catalogue.

It is opened as a whole and never changed: a reload puts another one in its place, and what is being
answered with the old one is answered.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ensue.config import make_config
from ensue.errors import EnsueError, UsageError
from ensue.indexes.base import Index
from ensue.indexes.store import read_stored
from ensue.indexes.table import get_kind
from ensue.models.graph.medres import Medres
from ensue.models.retrieval.two_tower import TwoTower
from ensue.runs.candidate_scores import RankRequest
from ensue.runs.cascade import Cascade, open_ranker
from ensue.runs.requests import NO_ITEMS, Recommendation, Request
from ensue.runs.retrieve import Best
from ensue.runs.run import Run, load
from ensue.serving.config import ServeConfig
from ensue.serving.errors import ConflictError
from ensue.serving.events import Event
from ensue.serving.live import live_history
from ensue.serving.schemas import RecommendRequest

Items = Sequence[tuple[str, Mapping[str, Any]]]  # ids and rows, as a store gives them
Stage = tuple[str, float, int | None]  # name, milliseconds, number of items


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is read from, at the start and at every reload.

    run: its folder. index: of the run, a kind or a folder. ranker: folder of a run of either kind
        that ranks what the first one retrieves. ranker_items: see `Cascade`.
    """

    name: str
    run: Path
    index: str | None = None
    ranker: Path | None = None
    ranker_items: Path | None = None


@dataclass
class Ask:
    """A request on its way through the service.

    events: of the store, for a user. arrived: by `time.perf_counter`.
    """

    body: RecommendRequest
    events: Sequence[Event] = ()
    arrived: float = field(default_factory=time.perf_counter)


class Answer(NamedTuple):
    """A recommendation, and the name, the milliseconds and the number of items of each stage."""

    recommendation: Recommendation
    stages: list[Stage]


class ServedModel:
    """A model that answers. Threads may share it.

    Args:
        items: that were added to the catalogue since training; those that the run knows by now are
            not added again.

    Raises:
        EnsueError: the run or its index cannot be used.
    """

    def __init__(self, place: ModelPlace, config: ServeConfig, items: Items = ()) -> None:
        self.place, self.name, self._config = place, place.name, config
        run = load(place.run)
        self.weights = run.weights_hash
        added = _rows_to_add(run, items)
        self.run = run.extended(added, id_column="id") if added else run
        self.index = None if place.index is None else _open_index(self.run, run, place.index)
        self.cascade: Cascade | None = None
        if place.ranker is not None:
            self.cascade = Cascade(
                self.run,
                open_ranker(place.ranker),
                num_candidates=config.candidates,
                items=place.ranker_items,
            )
        self.run.recommender.freeze_()
        self._warm_up()

    @property
    def takes_items(self) -> bool:
        """Whether items can be added by their features."""
        return takes_items(self.run)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Titles of the items that have one."""
        return {item: title for item, title in self.run.item_names().items() if title}

    def knows(self, item: str) -> bool:
        """Whether the item is in the catalogue."""
        return bool(self.run.recommender.item_ids.to_dense([item])[0])

    def check_items(self, items: Items) -> None:
        """Check that items can be added.

        Raises:
            ConflictError: an id is in the catalogue, or a feature or its value does not fit.
        """
        try:
            self.run.extended([{**row, "id": item} for item, row in items], id_column="id")
        except UsageError as error:
            raise self._told(error) from None

    def find_items(self, text: str, limit: int) -> list[tuple[str, str | None]]:
        """Return ids and titles of items that have a text in either, whatever its case.

        The item with that id comes first, then titles that begin with it, then the others.
        """
        wanted, names = text.casefold(), self._names
        places = [n for n, name in enumerate(names) if wanted in name]
        raw = self.run.item_table["raw_id"]
        found = [(str(raw[n]), self.titles.get(str(raw[n]))) for n in places]

        def rank(one: tuple[str, str | None]) -> int:
            item, title = one
            if item.casefold() == wanted:
                return 0
            return 1 if (title or "").casefold().startswith(wanted) else 2

        return sorted(found, key=rank)[:limit]

    @cached_property
    def _names(self) -> list[str]:
        """What `find_items` looks in, of each item."""
        raw = self.run.item_table["raw_id"].cast(pl.String).to_list()
        return [f"{item}\n{self.titles.get(item, '')}".casefold() for item in raw]

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """Return the answer to each request, or why it has none."""
        found: list[Answer | Exception | None] = [None] * len(asks)
        requests: list[Request | None] = [None] * len(asks)
        for n, ask in enumerate(asks):
            try:
                requests[n] = self._request(ask)
            except EnsueError as error:
                found[n] = self._told(error)
        # A model is given features of all requests or of none.
        for has_features in (False, True):
            places = [
                n
                for n, request in enumerate(requests)
                if request is not None and (request.features is not None) == has_features
            ]
            pairs = [(asks[n], request) for n in places if (request := requests[n]) is not None]
            for n, answer in zip(places, self._answer_together(pairs), strict=True):
                found[n] = answer
        return [answer for answer in found if answer is not None]

    def _answer_together(self, pairs: Sequence[tuple[Ask, Request]]) -> list[Answer | Exception]:
        """Return the answers to requests; if one of them is at fault, the others are answered."""
        if not pairs:
            return []
        try:
            return [*self._answer(pairs)]
        except EnsueError as error:
            if len(pairs) == 1:
                return [self._told(error)]
        return [answer for pair in pairs for answer in self._answer_together([pair])]

    def _answer(self, pairs: Sequence[tuple[Ask, Request]]) -> list[Answer]:
        started = time.perf_counter()
        requests = [request for _, request in pairs]
        if self.cascade is not None:
            least = self.cascade.num_candidates
            requests = [r._replace(k=max(r.k, least)) for r in requests]
        found = self.run.recommender.find(requests, index=self.index)
        spent = 1000 * (time.perf_counter() - started)
        stages: list[list[Stage]] = [
            [("wait", 1000 * (started - ask.arrived), None), ("retrieve", spent, len(ids))]
            for (ask, _), (ids, _) in zip(pairs, found, strict=True)
        ]
        if self.cascade is not None:
            found = self._rank(self.cascade, pairs, found, stages)
        told = self.run.recommender.tell([request for _, request in pairs], found)
        return [Answer(*both) for both in zip(told, stages, strict=True)]

    def _rank(
        self,
        cascade: Cascade,
        pairs: Sequence[tuple[Ask, Request]],
        found: Sequence[Best],
        stages: Sequence[list[Stage]],
    ) -> list[Best]:
        """Return the best items by the second stage, and add what it took to `stages`.

        A batch has the budget of the request that has least of it left.
        """
        budgets = [(ask.arrived, ask.body.budget_ms or self._config.budget_ms) for ask, _ in pairs]
        ends = [arrived + budget / 1000 for arrived, budget in budgets if budget is not None]
        ranked = cascade.rank(
            [
                RankRequest(r.items, r.raw_user, ask.body.context, ask.body.features)
                for ask, r in pairs
            ],
            found,
            deadline=min(ends, default=None),
        )
        for one, own, (_, request) in zip(ranked, stages, pairs, strict=True):
            own.append(("rank", one.stage.milliseconds, one.num_ranked))
            new = [value for value in one.unknown_context if value not in request.unknown_context]
            request.unknown_context.extend(new)
        return [
            (one.ids[: request.k], one.scores[: request.k])
            for one, (_, request) in zip(ranked, pairs, strict=True)
        ]

    def _request(self, ask: Ask) -> Request:
        """Return a request in dense ids.

        Raises:
            UsageError: a name or a value of the context does not fit.
        """
        body, recommender = ask.body, self.run.recommender
        if body.user is not None:
            live = live_history(self.run, str(body.user), ask.events)
            items, context, unknown = live.items, live.context, live.unknown_items
        else:
            dense = recommender.item_ids.to_dense(body.history or ())
            items, context = dense[dense > 0], None
            unknown = [
                str(raw) for raw, item in zip(body.history or (), dense, strict=True) if item == 0
            ]
        of_request: Mapping[str, Any] = body.context or {}
        features: Mapping[str, Any] | None = body.features
        if self.cascade is not None:  # its second stage may read what the first one does not know
            of_request, features = self.cascade.for_retriever(of_request, features or {})
            features = features or None
        request = recommender.request(
            items,
            user=body.user,
            event_context=context,
            context=of_request,
            unknown_items=unknown,
        )
        excluded = items if body.exclude_seen else NO_ITEMS
        if body.deny:
            excluded = np.concatenate([excluded, recommender.item_ids.to_dense(body.deny)])
        return request._replace(
            k=body.k,
            excluded=excluded,
            features=features,
            allowed=None if body.allow is None else recommender.item_ids.to_dense(body.allow),
        )

    def _told(self, error: EnsueError) -> EnsueError:
        """Return an error of this model as its users may read it: with its name for its folder.

        It is no fault of the request alone: another model may read what it gives.
        """
        if not isinstance(error, UsageError):
            return error
        message = str(error).replace(str(self.run.path), f"model {self.name}")
        if self.place.ranker is not None:
            message = message.replace(str(self.place.ranker), f"the ranker of model {self.name}")
        return ConflictError(message)

    def _warm_up(self) -> None:
        """Answer once: compiles what is compiled at first use, and shows a broken run."""
        first = self.run.recommender.item_ids.to_raw([1])
        bodies = [RecommendRequest(history=[*first], k=1), RecommendRequest(history=[], k=1)]
        for answer in self.answer([Ask(body) for body in bodies]):
            if isinstance(answer, Exception):
                raise answer


def takes_items(run: Run) -> bool:
    """Whether items can be added to the run by their features."""
    return isinstance(run.model, (TwoTower, Medres)) and bool(run.model.features.items)


def _rows_to_add(run: Run, items: Items) -> list[dict[str, Any]]:
    """Return the rows of items that the run does not know; none for a run that takes none.

    They may have been added to another run: names that this one does not know are left out.
    """
    if not items or not takes_items(run):
        return []
    names = {"title", *run.feature_encoders["items"].names}
    known = run.recommender.item_ids.to_dense([item for item, _ in items]).tolist()
    return [
        {**{name: value for name, value in row.items() if name in names}, "id": item}
        for (item, row), dense in zip(items, known, strict=True)
        if dense == 0
    ]


def _open_index(run: Run, stored: Run, name: str) -> Index:
    """Return the index that the run has, or one of its kind that holds the added items too."""
    if run is stored:
        return run.index(name)
    info = read_stored(stored.index_path(name))
    kind = get_kind(info.kind)
    return kind.build(run.model, make_config(kind.config, info.config))
