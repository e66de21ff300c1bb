"""The HTTP side of the service: routes, their bodies and their errors."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ensue import __version__
from ensue.serving import schemas
from ensue.serving.document import write_document
from ensue.serving.errors import BadRequestError, NotFoundError, ServiceError
from ensue.serving.middleware import ApiKeys, App, Gate, error_answer
from ensue.serving.page.views import add_page
from ensue.serving.routes import BodyRoute
from ensue.serving.served import Answer, ServedModel
from ensue.serving.service import Service

_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": schemas.ErrorAnswer, "description": "No API key, or one that is not known."},
    413: {"model": schemas.ErrorAnswer, "description": "The body is too large."},
    421: {"model": schemas.ErrorAnswer, "description": "The host is not one of the service."},
    422: {"model": schemas.ErrorAnswer, "description": "The request has no meaning."},
    429: {"model": schemas.ErrorAnswer, "description": "The sender asks more often than it may."},
    503: {"model": schemas.ErrorAnswer, "description": "The store is away, or too many wait."},
}
_MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": schemas.ErrorAnswer, "description": "There is no such model or item."}
}
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": schemas.ErrorAnswer, "description": "It does not fit what is served now."}
}
Text = Annotated[str, Path(min_length=1, max_length=250, pattern=r"^[^\x00]+$")]
ModelName = Annotated[
    str | None, Query(description="The first one by default.", min_length=1, max_length=128)
]
Limit = Annotated[int, Query(ge=1, le=100_000)]


def create_app(
    service: Service,
    *,
    keys: ApiKeys | None = None,
    hosts: frozenset[str] | None = None,
) -> App:
    """Return the ASGI application of a service, which it closes at the end.

    Args:
        keys: without one of which nobody is answered; None answers everybody.
        hosts: names that requests may give as their host; None is any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        expiring = asyncio.create_task(service.expire_forever())
        yield
        expiring.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="Ensue",
        version=__version__,
        summary="Recommendations with live histories.",
        lifespan=lifespan,
        docs_url=None,  # a page that loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=_ERRORS,
    )
    app.state.service = service
    app.router.route_class = BodyRoute
    app.openapi = partial(write_document, app, service.config)  # type: ignore[method-assign]
    _add_error_handlers(app)
    _add_recommend(app, service)
    _add_events(app, service)
    _add_items(app, service)
    _add_models(app, service)
    _add_health(app, service)
    add_page(app, service)
    return Gate(
        app,
        keys=keys,
        hosts=hosts,
        rate=service.config.rate,
        max_body_bytes=service.config.max_body_bytes,
        watch=service.metrics.watch,
    )


def _add_recommend(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/recommend",
        response_model=schemas.RecommendAnswer,
        responses={**_MISSING, **_CONFLICT},
    )
    async def recommend(body: schemas.RecommendRequest) -> Response:
        """Ranked items for a user, with the events so far, or for any history."""
        answer = await service.recommend(body)
        return _json(_tell(answer, service.model(body.model), timings=body.timings))


def _add_events(app: FastAPI, service: Service) -> None:
    @app.post("/v1/events", response_model=schemas.EventsAnswer)
    async def add_events(body: schemas.EventsRequest) -> Response:
        """Store events. They are on disk, and in every later answer, once this is answered."""
        stored = await service.add_events(body)
        num_new = sum(stored.is_new)
        service.metrics.events.labels("new").inc(num_new)
        service.metrics.events.labels("duplicate").inc(len(stored.is_new) - num_new)
        return _json(
            {
                "stored": num_new,
                "duplicates": len(stored.is_new) - num_new,
                "ids": stored.ids,
                "unknown_items": stored.unknown_items,
            }
        )

    @app.get(
        "/v1/users/{user:path}/history", response_model=schemas.HistoryAnswer, responses=_MISSING
    )
    async def history(user: Text, limit: Limit = 100, model: ModelName = None) -> Response:
        """The last events of a user, those of training and live ones, oldest first."""
        found = await service.history(user, model)
        served = service.model(model)
        first = max(len(found.items) - limit, 0)
        raw = served.run.recommender.item_ids.to_raw(found.items[first:])
        times = [None] * len(raw) if found.times is None else _iso(found.times[first:])
        events = [
            {"item": item, "title": served.titles.get(item), "time": time, "live": live}
            for item, time, live in zip(raw, times, found.is_live[first:].tolist(), strict=True)
        ]
        is_known = bool(served.run.recommender.user_ids.to_dense([user])[0])
        return _json({"user": user, "known": is_known, "events": events, "total": len(found.items)})

    @app.delete("/v1/users/{user:path}", response_model=schemas.DeletedAnswer)
    async def delete_user(user: Text, request: Request) -> Response:
        """Remove the live events of a user. What a model learned in training stays."""
        if request.scope["raw_path"].endswith(b"/history"):  # of an id, the slash is encoded
            raise HTTPException(405)
        return _json({"user": user, "events": await service.delete_user(user)})


def _add_items(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/items/{item:path}/similar",
        response_model=schemas.SimilarAnswer,
        responses={**_MISSING, **_CONFLICT},
    )
    async def similar(item: Text, k: Limit = 10, model: ModelName = None) -> Response:
        """Items whose vectors are most like that of an item."""
        found = await service.similar(item, k, model)
        return _json(
            {
                "model": service.model(model).name,
                "item": item,
                "items": found.items,
                "scores": found.scores,
            }
        )

    @app.get("/v1/items", response_model=schemas.FoundItems, responses=_MISSING)
    async def find_items(
        query: Annotated[str, Query(min_length=1, max_length=250)],
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        model: ModelName = None,
    ) -> Response:
        """Items whose title or id has a text, whatever its case."""
        found = await asyncio.to_thread(service.model(model).find_items, query, limit)
        return _json({"items": [{"id": item, "title": title} for item, title in found]})

    @app.post("/v1/items", response_model=schemas.ItemsAnswer, responses=_CONFLICT)
    async def add_items(body: schemas.ItemsRequest) -> Response:
        """Add items by their features to the models that read some."""
        is_new, models = await service.add_items(body.items)
        num_new = sum(is_new)
        return _json({"stored": num_new, "duplicates": len(is_new) - num_new, "models": models})


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=schemas.ModelsAnswer)
    async def models() -> Response:
        """The models that are served now."""
        return _json({"models": [_describe(model) for model in service.models.values()]})

    @app.post(
        "/v1/models/reload",
        response_model=schemas.ModelsAnswer,
        responses={**_MISSING, **_CONFLICT},
    )
    async def reload(body: schemas.ReloadRequest) -> Response:
        """Read models anew from their folders; a run that cannot be used changes nothing."""
        opened = await service.reload(body.model)
        return _json({"models": [_describe(model) for model in opened]})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=schemas.HealthAnswer)
    async def health() -> Response:
        """The process lives."""
        return _json({"status": "ok"})

    @app.get("/readyz", response_model=schemas.HealthAnswer)
    async def ready() -> Response:
        """Requests can be answered: the models are read, and the store answers."""
        await service.check()
        return _json({"status": "ready"})

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def of_service(_: Request, error: ServiceError) -> Response:
        return _error(error)

    @app.exception_handler(RequestValidationError)
    async def of_body(_: Request, error: RequestValidationError) -> Response:
        return _error(BadRequestError(_first_fault(error)))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ServiceError):  # raised while the body was read
            return _error(error.__cause__)
        told: ServiceError = BadRequestError("the body must be JSON.")
        if error.status_code == 404:
            told = NotFoundError("there is no such path.")
        if error.status_code == 405:
            body, headers = error_answer(BadRequestError("the path has no such method."))
            headers["allow"] = ", ".join(_methods(app, request))
            return Response(body, status_code=405, headers=headers)
        return _error(told)

    @app.exception_handler(Exception)
    async def of_us(_: Request, error: Exception) -> Response:
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
        return _error(ServiceError("the service failed; its log says why."))


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Return the methods that the path of a request has."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    same = [route for route in matching if route.path == matching[0].path]
    return sorted({method for route in same for method in route.methods or ()})


def _error(error: ServiceError) -> Response:
    body, headers = error_answer(error)
    return Response(body, status_code=error.status, headers=headers)


def _first_fault(error: RequestValidationError) -> str:
    """Return one sentence on the first thing that is wrong, without what was sent."""
    first = error.errors()[0]
    if first["type"] == "model_attributes_type":  # no object, or of another content type
        return "the body must be a JSON object, sent as Content-Type: application/json."
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int | str))
    text = f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}."
    return text.encode("ascii", "backslashreplace").decode()[:500]


def _json(value: Mapping[str, Any]) -> Response:
    return Response(to_json(value), media_type="application/json")


def _tell(answer: Answer, model: ServedModel, *, timings: bool) -> dict[str, Any]:
    told = {"model": model.name, **answer.recommendation.to_dict()}
    if timings:
        told["stages"] = [
            {"name": name, "ms": round(ms, 3), "items": items} for name, ms, items in answer.stages
        ]
    return told


def _describe(model: ServedModel) -> dict[str, Any]:
    counts = model.run.info["dataset"]["counts"]
    return {
        "name": model.name,
        "kind": model.run.info["model"],
        "weights": model.weights[:12],
        "items": counts["items"],
        "users": counts["users"],
        "index": model.place.index,
        "ranker": None if model.place.ranker is None else model.place.ranker.name,
    }


def _iso(times: np.ndarray[Any, Any]) -> list[str | None]:
    """Return moments [n] in microseconds as ISO 8601, in UTC."""
    seconds = times.astype("datetime64[us]").astype("datetime64[ms]")
    return [f"{text}Z" for text in np.datetime_as_string(seconds).tolist()]
