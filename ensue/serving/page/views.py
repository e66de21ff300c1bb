"""The page of the service, for people: what the models answer, to whom, and how good they are.

It is made on the server and works without its script, which swaps parts in place, searches as one
types, and sends events. All that it says of a user is asked of the service as any client asks.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from ensue.runs.report_style import STYLE
from ensue.serving.errors import ConflictError, ServiceError, StoreAwayError
from ensue.serving.page import catalog
from ensue.serving.page.asked import COUNTS, MAX_TEXT, Asked, item_address, run_address
from ensue.serving.page.history import Timeline, of_items, of_user, open_gates
from ensue.serving.page.lists import Card, Title, fill_card
from ensue.serving.schemas import RecommendRequest
from ensue.serving.served import Answer, ServedModel
from ensue.serving.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STORE_AWAY = (
    "The store of events cannot be reached now, so nothing can be said of a user. Histories of "
    "your own work meanwhile. Try again in a moment."
)
HEADERS = {"content-security-policy": POLICY, "cache-control": "no-store"}
Read = tuple[NDArray[np.int64], NDArray[np.float64] | None]  # items [n], and their context [n, C]
T = TypeVar("T")
View = Callable[..., Awaitable[Response]]
NUM_FOUND = 12
NUM_SIMILAR = 10


def add_page(app: FastAPI, service: Service) -> None:
    """Add the page at /, and what belongs to it."""
    page = Page(service)
    views: dict[str, View] = {"/": page.home, "/item": page.item, "/runs/{name}": page.run}
    for name, (media_type, content) in page.static.items():
        views[f"/static/{name}"] = _sender(content, media_type)
    for path, view in views.items():
        app.add_api_route(path, view, methods=["GET"], include_in_schema=False)


class Page:
    """Views of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: dict[tuple[str, str], tuple[ServedModel, Any]] = {}
        folder = files("ensue.serving.page") / "static"
        style = STYLE + (folder / "page.css").read_text(encoding="utf-8")
        script = (folder / "page.js").read_text(encoding="utf-8")
        self.static = {"page.css": ("text/css", style), "page.js": ("text/javascript", script)}
        self._templates = Environment(
            loader=PackageLoader("ensue.serving.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {
            "item_address": item_address,
            "run_address": run_address,
            "kind_of": catalog.kind,
            # A browser that keeps the files asks for new ones when they change.
            "version": hashlib.sha256((style + script).encode()).hexdigest()[:12],
        }

    async def home(self, request: Request) -> Response:
        """A user or a composed history, and what the models recommend."""
        config = self._service.config
        asked = Asked.read(
            request.query_params,
            list(self._service.models),
            max_k=config.max_k,
            max_items=config.max_history,
        )
        shown = [self._service.model(name) for name in asked.models]
        title = await asyncio.to_thread(catalog.titles, shown)
        timeline, problem, status = Timeline(), "", 200
        cards: list[Card] = []
        try:
            timeline, cards = await self._answers(asked, shown, title)
        except ServiceError as error:
            problem = STORE_AWAY if isinstance(error, StoreAwayError) else told(error)
            status = error.status
        found = []
        if asked.find:
            found = await asyncio.to_thread(shown[0].find_items, asked.find, NUM_FOUND)
        headlines = {}
        if not cards and not problem:
            for model in self._service.models.values():
                headlines[model.name] = await self._once(catalog.headline, model)
        return await self._show(
            "home.html",
            headlines=headlines,
            asked=asked,
            timeline=timeline,
            cards=cards,
            problem=problem,
            found=found,
            title_of=title,
            counts=sorted({*(count for count in COUNTS if count <= config.max_k), asked.k}),
            examples=await self._once(catalog.examples, shown[0]),
            status=status,
        )

    async def item(self, request: Request) -> Response:
        """An item, and the items most like it."""
        item = request.query_params.get("id", "")[: MAX_TEXT + 1]
        served = list(self._service.models.values())
        knowing = [model for model in served if model.knows(item)]
        title = await asyncio.to_thread(catalog.titles, served)
        return await self._show(
            "item.html",
            item=item,
            title=title(item),
            facts=await asyncio.to_thread(catalog.facts, knowing[0], item) if knowing else [],
            cards=[await self._neighbors(model, item, title) for model in knowing],
            status=200 if knowing else 404,
        )

    async def run(self, name: str) -> Response:
        """How a run learned, and how well it ranks."""
        served = self._service.models.get(name)
        if served is None:
            return await self._show("run.html", title=name, body="", status=404)
        body = await self._once(catalog.report, served)
        return await self._show("run.html", title=name, body=body, status=200)

    async def _once(self, make: Callable[[ServedModel], T], served: ServedModel) -> T:
        """Return what is made of a model, once for the model as it was read.

        Drawings take seconds; an evaluation that is newer than the model is seen after a reload.
        """
        key = (make.__name__, served.name)
        if key not in self._made or self._made[key][0] is not served:
            self._made[key] = served, await asyncio.to_thread(make, served)
        return self._made[key][1]

    async def _show(self, template: str, *, status: int, **values: Any) -> Response:
        models = list(self._service.models.values())
        render = self._templates.get_template(template).render
        text = await asyncio.to_thread(render, models=models, **values)
        return Response(text, status_code=status, media_type="text/html", headers=HEADERS)

    async def _answers(
        self, asked: Asked, shown: Sequence[ServedModel], title: Title
    ) -> tuple[Timeline, list[Card]]:
        """Return the history, and each model's answer to it.

        Raises:
            ServiceError: the store is away, or cannot hold such a user.
        """
        if asked.user is not None:
            live = [await self._service.history(asked.user, model.name) for model in shown]
            timeline = of_user(shown[0], asked.user, live[0], title)
            read: list[Read] = [(found.items, found.context) for found in live]
        elif asked.items:
            timeline = of_items(shown[0], asked.items, title)
            read = [(m.run.recommender.item_ids.to_dense(asked.items), None) for m in shown]
        else:
            return Timeline(), []
        cards = []
        before = await self._before(asked)
        for model, answer, was, history in zip(
            shown, await self._ask(asked), before, read, strict=True
        ):
            card = Card(model.name, catalog.kind(model))
            if isinstance(answer, Answer):
                fill_card(card, answer, title, before=was, added=asked.last_added)
                card.gates = await asyncio.to_thread(open_gates, model, *history)
            else:
                card.error = told(answer)
            cards.append(card)
        return timeline, cards

    async def _before(self, asked: Asked) -> list[Sequence[str] | None]:
        """Return the list that each model's answer is compared with, if any.

        For a composed history it is that without its last item; for a user it is what was shown
        before an event was sent.
        """
        if asked.user is not None:
            return [asked.before[name] or None for name in asked.models]
        earlier = await self._ask(replace(asked, items=asked.items[:-1]))
        return [
            answer.recommendation.items if isinstance(answer, Answer) else None
            for answer in earlier
        ]

    async def _ask(self, asked: Asked) -> list[Answer | ServiceError]:
        """Return the answer of each model, or why it has none.

        Raises:
            StoreAwayError: the store is away.
        """
        history: list[str | int] | None = None if asked.user is not None else [*asked.items]
        asks = [
            RecommendRequest(user=asked.user, history=history, k=asked.k, model=name)
            for name in asked.models
        ]
        return await asyncio.gather(*(self._ask_one(body) for body in asks))

    async def _ask_one(self, body: RecommendRequest) -> Answer | ServiceError:
        try:
            return await self._service.recommend(body)
        except StoreAwayError:
            raise
        except ServiceError as error:
            return error

    async def _neighbors(self, model: ServedModel, item: str, title: Title) -> Card:
        """Return the items most like an item, by one model."""
        card = Card(model.name, catalog.kind(model))
        try:
            found = await self._service.similar(item, NUM_SIMILAR, model.name)
        except ConflictError as error:
            card.error = told(error)
        else:
            fill_card(card, Answer(found, []), title, before=None, added="")
        return card


def told(error: ServiceError) -> str:
    """Return an error as a sentence of a page."""
    return f"{str(error)[:1].upper()}{str(error)[1:]}"


def _sender(content: str, media_type: str) -> View:
    """Return a view that sends a file, which a browser may keep: its address has its hash."""
    headers = {"cache-control": "private, max-age=31536000, immutable"}

    async def send() -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return send
