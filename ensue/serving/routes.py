"""A route that reads its body in one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from ensue.serving.errors import BadRequestError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class BodyRoute(APIRoute):
    """A route whose function, if it takes nothing but `body`, is called without FastAPI's detours.

    FastAPI reads JSON, collects what the function depends on and validates, in more time than a
    model takes to answer. Here pydantic reads the bytes. Whatever is not in order is left to
    FastAPI, whose errors stay the only ones.
    """

    def get_route_handler(self) -> Handler:
        """Return what answers a request."""
        usual: Handler = super().get_route_handler()
        if list(inspect.signature(self.endpoint).parameters) != ["body"]:
            return usual
        model: type[BaseModel] = get_type_hints(self.endpoint)["body"]
        endpoint: Callable[[Any], Coroutine[Any, Any, Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await usual(request)
            try:
                body = model.model_validate_json(await request.body())
            except ValidationError:
                return await usual(request)
            except ClientDisconnect:
                raise BadRequestError("the body ended before it was whole.") from None
            return await endpoint(body)

        return handle
