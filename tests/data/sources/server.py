"""A file server on this machine that can be told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server holds and how it behaves.

    cuts: for the next requests of each path, how many bytes of the body are sent before the
        connection is closed; None, or nothing left, sends the whole body.
    codes: statuses that the next requests of each path get instead of the file.
    requests: (path, Range header or None, status) of each request answered.
    """

    files: dict[str, bytes]
    etag: str | None = '"v1"'
    has_ranges: bool = True
    sends_length: bool = True
    cuts: dict[str, list[int | None]] = field(default_factory=dict)
    codes: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, str | None, int]] = field(default_factory=list)
    url: str = ""

    def ranges_of(self, path: str) -> list[str | None]:
        return [asked for name, asked, _ in self.requests if name == path]

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        state = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self, state)

            def log_message(self, *args: object) -> None:
                """Keep the tests' output quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def answer(handler: BaseHTTPRequestHandler, state: FileServer) -> None:
    path, asked = handler.path, handler.headers.get("Range")
    codes = state.codes.get(path, [])
    code = codes.pop(0) if codes else 200 if path in state.files else 404
    if code != 200:
        state.requests.append((path, asked, code))
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    content = state.files[path]
    first = start_of(handler, state)
    if first is not None and first >= len(content):
        state.requests.append((path, asked, 416))
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.end_headers()
        return
    body = content[first or 0 :]
    code = 200 if first is None else 206
    state.requests.append((path, asked, code))
    handler.send_response(code)
    if first is not None:
        last = len(content) - 1
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
    if state.sends_length:
        handler.send_header("Content-Length", str(len(body)))
    if state.etag:
        handler.send_header("ETag", state.etag)
    handler.end_headers()
    cuts = state.cuts.get(path, [])
    handler.wfile.write(body[: cuts.pop(0)] if cuts else body)


def start_of(handler: BaseHTTPRequestHandler, state: FileServer) -> int | None:
    """Return the first byte asked for, if the file may be sent from there."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
    same = handler.headers.get("If-Range") in (None, state.etag)
    return int(asked[1]) if asked and same and state.has_ranges else None
