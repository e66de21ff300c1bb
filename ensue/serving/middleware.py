"""What is looked at before a request is read: its host, its key, its rate and its size."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from ensue.errors import DataError
from ensue.serving.errors import (
    KeyMissingError,
    ServiceError,
    TooLargeError,
    TooManyError,
    WrongHostError,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MIN_KEY = 16  # characters
MAX_DIGITS = 18  # of a length
MAX_SENDERS = 10_000  # whose rate is kept in mind
OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # what a load balancer asks
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
# No page of others may show the service in a frame, and no browser may guess what an answer is.
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class ApiKeys:
    """Keys, of which only hashes are kept; a comparison takes the same time for any key."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def read(cls, path: str | Path) -> ApiKeys:
        """Return the keys of a file, one a line; empty lines and those that begin with # are none.

        Raises:
            DataError: the file cannot be read, has no key, or a key is short.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise DataError(f"API keys are read from a text file; {path}: {reason}.") from None
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise DataError(f"a file of API keys has one key a line; {path} has none.")
        for number, key in enumerate(keys, 1):
            if len(key) < MIN_KEY:
                raise DataError(
                    f"an API key must have at least {MIN_KEY} characters; key {number} of {path} "
                    f"has {len(key)}. Make one with: openssl rand -hex 32"
                )
        return cls(keys)

    def knows(self, given: bytes) -> bytes | None:
        """Return the hash of a key that is known, or None."""
        hashed = hashlib.sha256(given).digest()
        known = [hmac.compare_digest(hashed, own) for own in self._hashes]
        return hashed if any(known) else None


class Rates:
    """How often each sender may ask: a bucket that fills at `rate` and holds one second of it."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._room = rate, max(rate, 1.0)
        self._clock = clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, sender: bytes) -> float:
        """Return 0 and count the request, or the seconds until the next one may come."""
        now = self._clock()
        filled, before = self._buckets.pop(sender, (self._room, now))
        filled = min(self._room, filled + (now - before) * self._rate)
        is_free = filled >= 1
        self._buckets[sender] = (filled - is_free, now)
        if len(self._buckets) > MAX_SENDERS:
            self._buckets.popitem(last=False)
        return 0.0 if is_free else (1 - filled) / self._rate


class Gate:
    """ASGI middleware in front of the application.

    Args:
        keys: None lets everybody in.
        hosts: names that a request may give as its host; None is any. A page of others cannot make
            a browser ask a service on this machine by a name of its own.
        watch: called with the method, the route, the status and the seconds of each request.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: ApiKeys | None,
        hosts: frozenset[str] | None,
        rate: float | None,
        max_body_bytes: int,
        watch: Callable[[str, str, int, float], None],
    ) -> None:
        self._app, self._keys, self._hosts = app, keys, hosts
        self._rates = None if rate is None else Rates(rate)
        self._max_body, self._watch = max_body_bytes, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *SAFE_HEADERS]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._counted(receive), send_on)
        except ServiceError as error:
            await send_error(error, send_on)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._watch(scope["method"], route, status, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        if self._hosts is not None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            if host.rpartition(":")[0] not in self._hosts and host not in self._hosts:
                raise WrongHostError("the service answers for localhost alone.")
        if scope["path"] in OPEN_PATHS:
            return
        sender = str((scope.get("client") or ("",))[0]).encode()
        if self._keys is not None:
            known = self._keys.knows(_given_key(headers))
            if known is None:
                raise KeyMissingError(
                    "the request needs an API key, as Authorization: Bearer KEY or X-API-Key: KEY."
                )
            sender = known
        if self._rates is not None and (seconds := self._rates.seconds_to_wait(sender)) > 0:
            raise TooManyError(
                "the sender asks more often than it may.", retry_after=math.ceil(seconds)
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > MAX_DIGITS or int(length) > self._max_body:
            raise self._too_large()

    def _counted(self, receive: Receive) -> Receive:
        """Return a `receive` that ends a body that grows too large, whatever its header says."""
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"a request may have {self._max_body:,} bytes.")


async def send_error(error: ServiceError, send: Send) -> None:
    """Answer with an error."""
    body, headers = error_answer(error)
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def error_answer(error: ServiceError) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an error."""
    body = to_json({"error": {"code": error.code, "message": str(error)}})
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, KeyMissingError):
        headers["www-authenticate"] = 'Basic realm="Ensue, the key as the password"'
    return body, headers


def _given_key(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key of a request; a browser sends it as the password of Basic authentication."""
    if (key := headers.get(b"x-api-key")) is not None:
        return key.strip()
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
