"""What the service does, without HTTP: models, the store, and the threads that ask them.

A request for a user reads the store in the same thread that scores, for a whole batch at once, so
an event that was acknowledged is in every answer asked for after it.
"""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from ensue.errors import UsageError
from ensue.progress import note
from ensue.runs.requests import Recommendation
from ensue.serving.batching import Batcher
from ensue.serving.config import ServeConfig
from ensue.serving.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    StoreAwayError,
)
from ensue.serving.events import NO_CONTEXT, Event
from ensue.serving.live import LiveHistory, live_history
from ensue.serving.metrics import Metrics
from ensue.serving.schemas import (
    MICROSECONDS,
    EventsRequest,
    NewItem,
    RecommendRequest,
    check_most,
    check_size,
    to_microseconds,
)
from ensue.serving.served import Answer, Ask, ModelPlace, ServedModel
from ensue.serving.stores.base import HistoryStore, StoreUnavailable

RETRY_SECONDS = 1  # after which a store that was away may be back
EXPIRE_SECONDS = 3600.0
DAY = 86_400 * MICROSECONDS
T = TypeVar("T")


class StoredEvents(NamedTuple):
    """What became of events: their ids, and whether each was new."""

    ids: list[str]
    is_new: list[bool]
    unknown_items: list[str]


class Service:
    """Models by name, a store, and the work on both.

    Args:
        places: of the models; the first answers where a request names none.

    Raises:
        EnsueError: a run cannot be used.
        StoreUnavailable: the store is away.
    """

    def __init__(
        self, places: Sequence[ModelPlace], store: HistoryStore, config: ServeConfig | None = None
    ) -> None:
        self.config = config or ServeConfig()
        self.store = store
        self.metrics = Metrics()
        torch.set_num_threads(self.config.threads)
        items = store.items()
        self.models = {place.name: ServedModel(place, self.config, items) for place in places}
        self._asks: Batcher[Ask, Answer] = Batcher(
            self._answer,
            name="answers",
            max_batch=self.config.max_batch,
            max_waiting=self.config.max_waiting,
        )
        self._writes: Batcher[list[Event], list[bool]] = Batcher(
            self._write,
            name="writes",
            max_batch=self.config.max_batch,
            max_waiting=self.config.max_waiting,
        )
        self._change = asyncio.Lock()  # models change one at a time
        _spare_collector()

    @property
    def first(self) -> ServedModel:
        """The model that answers where a request names none."""
        return next(iter(self.models.values()))

    def model(self, name: str | None) -> ServedModel:
        """Return the model of a name.

        Raises:
            NotFoundError: there is none.
        """
        if name is None:
            return self.first
        if name not in self.models:
            raise NotFoundError(f"a model must be one of {', '.join(self.models)}.")
        return self.models[name]

    async def recommend(self, body: RecommendRequest) -> Answer:
        """Return the answer to a request.

        Raises:
            ServiceError: it cannot be answered.
        """
        self.model(body.model)
        if body.user is not None and body.history is not None:
            raise BadRequestError("recommend takes a user or a history; got both.")
        if body.user is None and body.history is None and body.features is None:
            raise BadRequestError("recommend needs a user, a history or features; got none.")
        check_most("k", body.k, self.config.max_k)
        for name, values in (("history", body.history), ("allow", body.allow), ("deny", body.deny)):
            check_size(name, values, self.config.max_history)
        return await self._asks.ask(Ask(body))

    async def add_events(self, body: EventsRequest) -> StoredEvents:
        """Store events; they are on disk when it returns.

        Raises:
            ServiceError: an event has no meaning, or the store is away.
        """
        check_size("events", body.events, self.config.max_events)
        now = time.time_ns() // 1000
        events = [
            Event(
                user=str(event.user),
                id=uuid.uuid4().hex if event.id is None else str(event.id),
                item=str(event.item),
                time=now if event.time is None else to_microseconds(event.time),
                context=event.context or NO_CONTEXT,
            )
            for event in body.events
        ]
        is_new = await self._writes.ask(events)
        items = dict.fromkeys(event.item for event in events)
        return StoredEvents(
            ids=[event.id for event in events],
            is_new=is_new,
            unknown_items=[item for item in items if not self.first.knows(item)],
        )

    async def history(self, user: str, model: str | None = None) -> LiveHistory:
        """Return what a model reads of a user."""
        served = self.model(model)
        (events,) = await self._ask_store(partial(self.store.read, [user], self.config.max_history))
        return live_history(served.run, user, events)

    async def delete_user(self, user: str) -> int:
        """Remove the live events of a user; return how many."""
        return await self._ask_store(partial(self.store.delete_user, user))

    async def similar(self, item: str, k: int, model: str | None = None) -> Recommendation:
        """Return the items most like an item.

        Raises:
            NotFoundError: it is not in the catalogue.
            ConflictError: the model has no vectors of items.
        """
        served = self.model(model)
        check_most("k", k, self.config.max_k)
        if not served.knows(item):
            raise NotFoundError("the item is not in the catalogue of the model.")
        try:
            return await asyncio.to_thread(served.run.similar, item, k=k)
        except UsageError as error:
            raise ConflictError(str(error)) from None

    async def add_items(self, items: Sequence[NewItem]) -> tuple[list[bool], list[str]]:
        """Store new items and give them to all models that read features of items.

        Returns whether each is new, and the names of the models.

        Raises:
            ConflictError: no model takes items, an id is in the catalogue of one, or a feature
                does not fit one.
        """
        check_size("items", items, self.config.max_events)
        ids = [str(item.id).strip() for item in items]  # as a run reads them
        rows = [_row(item) for item in items]
        async with self._change:
            takers = [model for model in self.models.values() if model.takes_items]
            if not takers:
                raise ConflictError("no model that is served reads features of items.")
            stored = await self._ask_store(self.store.items)
            before, fresh = {item for item, _ in stored}, dict[str, dict[str, Any]]()
            for item, row in zip(ids, rows, strict=True):
                if item not in before:
                    fresh.setdefault(item, row)  # the first one counts, as in the store
            if not fresh:
                return [False] * len(ids), [model.name for model in takers]
            for model in takers:
                await asyncio.to_thread(model.check_items, [*fresh.items()])
            longer = [*stored, *fresh.items()]
            opened = [await self._open(model.place, longer) for model in takers]
            is_new = await self._ask_store(partial(self.store.add_items, rows, ids))
            self.models |= {model.name: model for model in opened}
            _spare_collector()
            return is_new, [model.name for model in takers]

    async def reload(self, name: str | None = None) -> list[ServedModel]:
        """Read models anew from their places, and answer with them once all are read.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: a run cannot be used; the models stay what they are.
        """
        async with self._change:
            old = [self.model(name)] if name is not None else list(self.models.values())
            items = await self._ask_store(self.store.items)
            opened = [await self._open(model.place, items) for model in old]
            self.models |= {model.name: model for model in opened}
            _spare_collector()
            return opened

    async def check(self) -> None:
        """Check that requests can be answered.

        Raises:
            StoreAwayError: the store is away.
        """
        await self._ask_store(self.store.check)

    async def expire_forever(self) -> None:
        """Remove old events now and every hour, if the settings say so."""
        if self.config.keep_days is None:
            return
        while True:
            before = time.time_ns() // 1000 - round(self.config.keep_days * DAY)
            try:
                removed = await self._ask_store(partial(self.store.expire, before))
                if removed:
                    note(f"{removed:,} events older than {self.config.keep_days:g} days are gone.")
            except StoreAwayError:
                pass  # the next hour will do
            await asyncio.sleep(EXPIRE_SECONDS)

    def close(self) -> None:
        """Finish what is being done, and let go of the store."""
        self._asks.close()
        self._writes.close()
        self.store.close()

    async def _open(self, place: ModelPlace, items: Sequence[tuple[str, Any]]) -> ServedModel:
        try:
            return await asyncio.to_thread(ServedModel, place, self.config, items)
        except Exception as error:  # a damaged folder fails in more ways than can be listed
            note(f"model {place.name} is not replaced: {type(error).__name__}: {error}")
            raise ConflictError(
                f"the run of model {place.name} cannot be used; the one before it goes on. "
                "The log of the service says why."
            ) from None

    async def _ask_store(self, call: Callable[[], T]) -> T:
        """Return what a call of the store gives, made on another thread."""
        try:
            return await asyncio.to_thread(call)
        except StoreUnavailable as error:
            raise _store_away(error) from None
        except UsageError as error:
            raise BadRequestError(str(error)) from None

    def _answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """Return the answers to a batch; runs on the thread of answers."""
        self.metrics.batch.observe(len(asks))
        found: list[Answer | Exception | None] = [None] * len(asks)
        of_users = [n for n, ask in enumerate(asks) if ask.body.user is not None]
        if of_users:
            try:
                users = [str(asks[n].body.user) for n in of_users]
                for n, events in zip(
                    of_users, self.store.read(users, self.config.max_history), strict=True
                ):
                    asks[n].events = events
            except StoreUnavailable as error:
                told = _store_away(error)
                for n in of_users:
                    found[n] = told
        by_model: dict[str, list[int]] = {}
        for n, ask in enumerate(asks):
            if found[n] is None:
                by_model.setdefault(ask.body.model or self.first.name, []).append(n)
        for name, places in by_model.items():
            answers = self.models[name].answer([asks[n] for n in places])
            for n, answer in zip(places, answers, strict=True):
                found[n] = answer
        return [answer for answer in found if answer is not None]

    def _write(self, batches: Sequence[list[Event]]) -> list[list[bool] | Exception]:
        """Store the events of several requests in one go; runs on the thread of writes."""
        try:
            is_new = iter(self.store.append([event for batch in batches for event in batch]))
            return [[next(is_new) for _ in batch] for batch in batches]
        except UsageError as error:
            if len(batches) == 1:
                return [BadRequestError(str(error))]
            return [answer for batch in batches for answer in self._write([batch])]
        except StoreUnavailable as error:
            return [_store_away(error)] * len(batches)


def _spare_collector() -> None:
    """Free what is not used any more, and let Python's collector leave alone what was loaded.

    Else it would look at all models at every pause of its own.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _store_away(error: Exception) -> StoreAwayError:
    note(f"the store does not answer: {error}")
    return StoreAwayError(
        "the store of events cannot be reached now; nothing was changed. Try again.",
        retry_after=RETRY_SECONDS,
    )


def _row(item: NewItem) -> dict[str, Any]:
    """Return an item as a store holds it, and as `Run.extended` takes it."""
    title = {} if item.title is None else {"title": item.title}
    return {**(item.features or {}), **title}
