"""Downloads over HTTP that survive a bad connection: resumed, retried, and whole or reported.

A download goes to `part`; beside it `part`.json remembers the address and the server's validator
(ETag or Last-Modified), so a later attempt continues only where the file is still the same one.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ensue import __version__
from ensue.errors import DataError
from ensue.progress import note, track

Result = TypeVar("Result")

CHUNK_BYTES = 1 << 16
MEGABYTE = 1e6
MAX_TEXT_BYTES = 1 << 16
LONGEST_WAIT_S = 60.0
PASSING_CODES = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Retries:
    """How stubborn a download is.

    attempts: how many in a row may bring nothing new.
    first_wait_s: wait before the next attempt; it doubles with each that brings nothing.
    timeout_s: longest silence of the host.
    """

    attempts: int = 5
    first_wait_s: float = 1.0
    timeout_s: float = 30.0


class _Passing(Exception):  # noqa: N818 - the reader need not see an error: it may pass
    """A failure that another attempt may not meet."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def download(url: str, part: Path, *, retries: Retries, quiet: bool = False) -> None:
    """Complete the file `part` from `url`; what is there already is not fetched again.

    Raises:
        DataError: the host refuses, every attempt failed, or `part` cannot be written. What was
            received stays, and the next call continues from it.
    """
    try:
        _persist(
            lambda: _transfer(url, part, retries.timeout_s, quiet),
            url,
            retries,
            quiet=quiet,
            reached=lambda: _size(part),
        )
    except OSError as error:
        raise DataError(
            f"{part} must be writable; the system says: {error.strerror or error}. "
            "Make room or choose another folder, and run the command again to continue."
        ) from None


def download_text(url: str, *, retries: Retries, quiet: bool = False) -> str:
    """Return the small text at `url`.

    Raises:
        DataError: the host refuses, or every attempt failed.
    """

    def transfer() -> str:
        with _open(url, {}, retries.timeout_s) as response:
            content = b"".join(_chunks(response, MAX_TEXT_BYTES))
        return content.decode("utf-8", errors="replace")

    return _persist(transfer, url, retries, quiet=quiet)


def discard(part: Path) -> None:
    """Remove a partial download and what is known of it."""
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)


def _persist(
    transfer: Callable[[], Result],
    url: str,
    retries: Retries,
    *,
    quiet: bool,
    reached: Callable[[], int] = lambda: 0,
) -> Result:
    """Return the result of `transfer`, tried again while it may succeed or brings more bytes."""
    best = reached()
    failures = 0
    while True:
        try:
            return transfer()
        except _Passing as error:
            failures = 0 if reached() > best else failures + 1
            best = max(best, reached())
            if failures >= retries.attempts:
                raise DataError(
                    f"{url} must be reachable; {failures} attempts in a row failed, the last one: "
                    f"{error}. Check the network and run the command again"
                    f"{' to continue' if reached() else ''}."
                ) from None
            wait_s = min(error.wait_s or retries.first_wait_s * 2**failures, LONGEST_WAIT_S)
            if not quiet:
                note(f"{error}; trying again in {wait_s:g} s")
            time.sleep(wait_s)


def _transfer(url: str, part: Path, timeout_s: float, quiet: bool) -> None:
    """Receive what is missing in `part`."""
    validator = _known_validator(url, part)
    have = _size(part) if validator else 0
    headers = {"Range": f"bytes={have}-", "If-Range": str(validator)} if have else {}
    try:
        response = _open(url, headers, timeout_s)
    except _Unsatisfiable as error:
        if error.total == have:
            return  # an earlier attempt received everything
        discard(part)
        raise _Passing("the file on the host is shorter than what was received") from None
    with response:
        start, total = _extent(response)
        if start not in (0, have):
            discard(part)
            raise _Passing("the host answered with another range than the one asked for")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            _remember(url, part, response)
            name = url.rsplit("/", 1)[-1]
            left = (total - start) / MEGABYTE if total is not None else None
            title = f"continuing {name}" if start else f"downloading {name}"
            with track(title, left, unit="MB", enabled=not quiet) as advance:
                for chunk in _chunks(response):
                    file.write(chunk)
                    advance(len(chunk) / MEGABYTE)
    if total is not None and _size(part) != total:
        raise _Passing(f"the connection ended after {_size(part)} of {total} bytes")


class _Unsatisfiable(Exception):  # noqa: N818 - an answer of the host, not a fault
    """The host has no bytes after those asked for; `total` is its length where it says so."""

    def __init__(self, total: int | None) -> None:
        super().__init__()
        self.total = total


def _open(url: str, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    """Return the host's answer, or raise what kind of failure it is."""
    own = {"User-Agent": f"ensue/{__version__}", "Accept-Encoding": "identity"}
    try:
        response = urlopen(Request(url, headers=own | headers), timeout=timeout_s)
    except HTTPError as error:
        with error:
            if error.code == 416 and headers:
                length = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
                raise _Unsatisfiable(int(length[1]) if length else None) from None
            if error.code in PASSING_CODES:
                answer = f"{url} answered {error.code} {error.reason}"
                raise _Passing(answer, _retry_after(error)) from None
        raise DataError(
            f"{url} must be there; the host answered {error.code} {error.reason}. "
            "Look for the data set's new address, or pass a mirror as --base-url."
        ) from None
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DataError(
                f"{url} must have a certificate that this machine trusts; {reason.verify_message}."
            ) from None
        raise _Passing(f"no answer from {url}: {_describe(reason)}") from None
    assert isinstance(response, HTTPResponse)
    return response


def _chunks(response: HTTPResponse, limit: int | None = None) -> Iterator[bytes]:
    """Yield the body; a failure of the network is told from one of the disk by its type."""
    left = limit
    while left is None or left > 0:
        try:
            chunk = response.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
        except (OSError, HTTPException) as error:
            raise _Passing(f"the connection broke: {_describe(error)}") from None
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk


def _extent(response: HTTPResponse) -> tuple[int, int | None]:
    """Return where the body starts in the file, and the file's length where it is known."""
    content_range = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "")
    )
    if response.status == 206 and content_range:
        start, total = content_range.groups()
        return int(start), None if total == "*" else int(total)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _retry_after(error: HTTPError) -> float | None:
    """Return the seconds that the host asks to wait; dates are left to our own waits."""
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def _describe(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "timed out"
    text = getattr(reason, "strerror", None) or str(reason)
    return text.strip() or type(reason).__name__


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remember(url: str, part: Path, response: HTTPResponse) -> None:
    """Keep the validator of the file that `part` is a beginning of."""
    tag = response.headers.get("ETag", "")
    strong_tag = tag if tag.startswith('"') else None  # If-Range must not be given a weak one
    validator = strong_tag or response.headers.get("Last-Modified")
    _state_file(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _known_validator(url: str, part: Path) -> str | None:
    """Return the validator of what is in `part`, if it came from `url` and can be continued."""
    try:
        state = json.loads(_state_file(part).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(state, dict) or state.get("url") != url:
        return None
    validator = state.get("validator")
    return validator if isinstance(validator, str) else None
