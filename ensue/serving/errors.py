"""Why a request is not answered: a status, a code for programs, a sentence for people."""

from __future__ import annotations

from ensue.errors import EnsueError


class ServiceError(EnsueError):
    """A request that is not answered.

    Args:
        message: one sentence without internals: no path, no address, no text of another error.
        retry_after: seconds after which the same request may be answered.
    """

    status = 500
    code = "internal"

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(ServiceError):
    """The request cannot be read, or asks for what has no meaning."""

    status, code = 422, "bad_request"


class KeyMissingError(ServiceError):
    """The request has no API key that the service knows."""

    status, code = 401, "unauthorized"


class WrongHostError(ServiceError):
    """The request names a host that the service does not answer for."""

    status, code = 421, "wrong_host"


class NotFoundError(ServiceError):
    """There is no such model or item."""

    status, code = 404, "not_found"


class ConflictError(ServiceError):
    """The request does not fit what is served now."""

    status, code = 409, "conflict"


class TooLargeError(ServiceError):
    """The body is larger than the service reads."""

    status, code = 413, "too_large"


class TooManyError(ServiceError):
    """The sender asks more often than it may."""

    status, code = 429, "too_many_requests"


class BusyError(ServiceError):
    """More requests wait than the service takes."""

    status, code = 503, "busy"


class StoreAwayError(ServiceError):
    """The store of events cannot be reached now."""

    status, code = 503, "store_unavailable"
