"""Bodies of requests and answers, as the OpenAPI document shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    TypeAdapter,
)
from pydantic import ValidationError as Invalid

from ensue.serving.errors import BadRequestError
from ensue.serving.stores.base import MAX_TIME

MAX_WHOLE = 10**20  # beyond 64 bits, and the same number to a reader that has only doubles
MICROSECONDS = 1_000_000
MAX_SECONDS = MAX_TIME // MICROSECONDS


def _whole(value: Any) -> Any:
    """Return 2 for 2.0, which JSON holds for the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True, ge=-MAX_WHOLE, le=MAX_WHOLE)]
# An id as the log has it; a whole number is taken as its digits.
Id = (
    Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=r"^[^\x00]+$")]
    | Annotated[Whole, BeforeValidator(_whole)]
)
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]
Words = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*$")]
Value = Words | StrictBool | Whole | Number | None


def _tell_names(schema: dict[str, Any]) -> None:
    """Say that all names have the pattern; pydantic says it of the values of those that have it."""
    ((pattern, value),) = schema.pop("patternProperties").items()
    names = schema.setdefault("propertyNames", {"minLength": 1, "maxLength": 128})
    names["pattern"], schema["additionalProperties"] = pattern, value


Values = Annotated[dict[Name, Value], Field(max_length=256, json_schema_extra=_tell_names)]
# A moment: seconds since 1970, or ISO 8601; without a zone it is UTC.
Moment = (
    Annotated[float, Field(strict=True, ge=0, le=MAX_SECONDS)]
    | Annotated[int, Field(strict=True, ge=0, le=MAX_SECONDS)]
    | Annotated[
        str,
        StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", max_length=64),
        Field(json_schema_extra={"format": "date-time"}),
    ]
)
_MOMENT = TypeAdapter(datetime)


class _Body(BaseModel):
    """A body of a request: a name that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


def _needs(name: str, schema: dict[str, Any], *, without: Sequence[str]) -> dict[str, Any]:
    """Return the JSON schema of an object that has one property and not others."""
    nothing = {other: {"type": "null"} for other in without}
    return {"required": [name], "properties": {name: schema, **nothing}}


class RecommendRequest(_Body):
    """Either `user`, with what is stored of the user, or `history`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user": "42", "k": 5},
                {"history": ["1193", "661", "914"], "k": 5, "deny": ["3408"], "timings": True},
            ],
            "anyOf": [
                _needs("user", {"type": ["string", "integer"]}, without=("history",)),
                _needs("history", {"type": "array"}, without=("user",)),
                _needs("features", {"type": "object"}, without=("user", "history")),
            ],
        }
    )

    user: Id | None = Field(default=None, description="A user, known from training or from events.")
    history: list[Id] | None = Field(default=None, description="Ids of items, oldest first.")
    k: Annotated[int, Field(strict=True, ge=1), BeforeValidator(_whole)] = Field(
        default=10, description="At most so many items."
    )
    exclude_seen: StrictBool = Field(default=True, description="Leave out items of the history.")
    allow: list[Id] | None = Field(default=None, description="Recommend these items only.")
    deny: list[Id] | None = Field(default=None, description="Never recommend these items.")
    context: Values | None = Field(
        default=None, description="Of the request, for models that read some."
    )
    features: Values | None = Field(
        default=None, description="Of the user, in place of stored ones."
    )
    model: Name | None = Field(default=None, description="Which model; the first one by default.")
    budget_ms: Annotated[float, Field(strict=True, gt=0, le=60_000)] | None = Field(
        default=None, description="Time for an answer of two stages."
    )
    timings: StrictBool = Field(default=False, description="Tell the time of each stage.")


class Stage(_Answer):
    """How long a stage took, and how many items it gave. The time is that of the whole batch."""

    name: str
    ms: float
    items: int | None = None


class RecommendAnswer(_Answer):
    """Items and their scores, best first."""

    model: str
    items: list[str]
    scores: list[float]
    user: str | None = None
    known: bool | None = Field(
        default=None, description="Whether the user was in the training data."
    )
    unknown_items: list[str] | None = Field(
        default=None, description="Of the history, not in the model."
    )
    unknown_context: list[str] | None = Field(default=None, description="Values taken for missing.")
    stages: list[Stage] | None = None


class EventBody(_Body):
    """What a user did. The same id of the same user counts once, however often it is sent."""

    user: Id
    item: Id
    id: Id | None = Field(
        default=None, description="Made up, and not idempotent, where it is left out."
    )
    time: Moment | None = Field(default=None, description="Seconds since 1970, or ISO 8601; now.")
    context: Values | None = None


class EventsRequest(_Body):
    """Events, in any order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "user": "42",
                            "item": "1193",
                            "id": "7f8d3c",
                            "time": "2026-11-24T12:00:00Z",
                        }
                    ]
                }
            ]
        }
    )

    events: Annotated[list[EventBody], Field(min_length=1)]


class EventsAnswer(_Answer):
    """The events are stored for good."""

    stored: int = Field(description="Events that were new.")
    duplicates: int = Field(description="Events that were there already.")
    ids: list[str] = Field(description="In the order of the events.")
    unknown_items: list[str] = Field(description="Items that the first model does not know.")


class HistoryEvent(_Answer):
    """An event of a history; `live` tells those that were sent from those of training."""

    item: str
    title: str | None = None
    time: str | None = None
    live: bool


class HistoryAnswer(_Answer):
    """The last events of a user, oldest first."""

    user: str
    known: bool
    events: list[HistoryEvent]
    total: int = Field(description="Events that there are, of which the last are shown.")


class DeletedAnswer(_Answer):
    """What was removed."""

    user: str
    events: int


class SimilarAnswer(_Answer):
    """Items by the cosine of their vectors with that of the item."""

    model: str
    item: str
    items: list[str]
    scores: list[float]


class NewItem(_Body):
    """An item by its features."""

    id: Id
    title: Words | None = None
    features: Values | None = None


class ItemsRequest(_Body):
    """New items, for models that read features of items."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": [{"id": "n1", "title": "A new film", "features": {"genre": "Drama"}}]}
            ]
        }
    )

    items: Annotated[list[NewItem], Field(min_length=1)]


class ItemsAnswer(_Answer):
    """The items are stored for good, and the models know them."""

    stored: int
    duplicates: int
    models: list[str]


class ReloadRequest(_Body):
    """Which model; all of them by default."""

    model: Name | None = None


class ModelInfo(_Answer):
    """A model as it is served now."""

    name: str
    kind: str
    weights: str = Field(description="Start of the hash of its weights.")
    items: int
    users: int
    index: str | None = None
    ranker: str | None = None


class ModelsAnswer(_Answer):
    """The models, the one that answers by default first."""

    models: list[ModelInfo]


class FoundItem(_Answer):
    """An item of the catalogue."""

    id: str
    title: str | None = None


class FoundItems(_Answer):
    """Items whose title or id has the text."""

    items: list[FoundItem]


class HealthAnswer(_Answer):
    """Whether the service works."""

    status: str


class ErrorDetail(_Answer):
    """A code for programs, a sentence for people."""

    code: str
    message: str


class ErrorAnswer(_Answer):
    """Why a request was not answered."""

    error: ErrorDetail


def to_microseconds(moment: float | str) -> int:
    """Return a moment as microseconds since 1970.

    Raises:
        BadRequestError: it is no moment between 1970 and 2255.
    """
    if isinstance(moment, str):
        try:
            parsed = _MOMENT.validate_python(moment)
        except Invalid:
            raise BadRequestError(
                "time must be seconds since 1970 or ISO 8601, as in 2026-11-24T12:00:00Z."
            ) from None
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=timezone.utc)
        moment = parsed.timestamp()
        if not 0 <= moment <= MAX_SECONDS:
            raise BadRequestError("time must be between the years 1970 and 2255.")
    return round(moment * MICROSECONDS)


def check_size(name: str, values: Any, limit: int) -> None:
    """Check that a list has at most `limit` entries.

    Raises:
        BadRequestError: it has more.
    """
    if values is not None:
        check_most(name, len(values), limit)


def check_most(name: str, count: int, limit: int) -> None:
    """Check that at most `limit` entries are given or asked for.

    Raises:
        BadRequestError: there are more.
    """
    if count > limit:
        raise BadRequestError(f"{name} may have {limit} entries; got {count}.")
