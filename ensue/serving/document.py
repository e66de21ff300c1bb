"""The OpenAPI document, with the limits that the settings of a service make."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ensue.serving.config import ServeConfig

LISTS = {
    "RecommendRequest": ("history", "allow", "deny"),
    "EventsRequest": ("events",),
    "ItemsRequest": ("items",),
}


def write_document(app: FastAPI, config: ServeConfig) -> dict[str, Any]:
    """Return the document of an application, made at the first call."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        _limit_bodies(document["components"]["schemas"], config)
        _limit_queries(document["paths"], config)
        app.openapi_schema = document
    return app.openapi_schema


def _limit_bodies(schemas: dict[str, Any], config: ServeConfig) -> None:
    schemas["RecommendRequest"]["properties"]["k"]["maximum"] = config.max_k
    for body, names in LISTS.items():
        limit = config.max_history if body == "RecommendRequest" else config.max_events
        for name in names:
            schema = schemas[body]["properties"][name]
            for form in schema.get("anyOf", [schema]):
                if form["type"] == "array":
                    form["maxItems"] = limit


def _limit_queries(paths: dict[str, Any], config: ServeConfig) -> None:
    """Tell how large k may be; no other query has a limit that a setting makes."""
    for path in paths.values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "k":
                    parameter["schema"]["maximum"] = config.max_k
