"""Settings of the service: what a request may ask for, and how much of it is done at a time."""

from __future__ import annotations

from pydantic import Field

from ensue.config import Config


class ServeConfig(Config):
    """Limits and sizes of the service.

    max_k: items that a request may ask for.
    max_history: items of a history that a request gives, ids in its lists, and events that are read
        of a user, the newest ones.
    max_events: events or new items of one request.
    max_body_bytes: of one request.
    max_batch: requests answered together, and writes stored together.
    max_waiting: requests that may wait for an answer; more are turned away (503).
    rate: requests a second that each API key, or address where there are no keys, may send; more
        are turned away (429). None is any number.
    keep_days: events older than this are removed; None keeps them.
    budget_ms: time for an answer of two stages; None ranks all candidates.
    candidates: items that the first of two stages hands to the second.
    threads: of one answer to a batch of requests.
    """

    max_k: int = Field(default=1000, ge=1)
    max_history: int = Field(default=1000, ge=1)
    max_events: int = Field(default=1000, ge=1)
    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    max_batch: int = Field(default=64, ge=1)
    max_waiting: int = Field(default=1024, ge=1)
    rate: float | None = Field(default=None, gt=0)
    keep_days: float | None = Field(default=None, gt=0)
    budget_ms: float | None = Field(default=None, gt=0)
    candidates: int = Field(default=200, ge=1)
    threads: int = Field(default=1, ge=1)
