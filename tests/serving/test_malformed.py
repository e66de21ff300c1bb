"""Ten thousand requests that nobody should send: none fails, and none ends, the service."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.client import Caller, serving
from tests.serving.forking import Served, Services

pytestmark = pytest.mark.slow
EXAMPLES, RAW = 6000, 4000
TO_POST = ("/v1/recommend", "/v1/events", "/v1/items", "/v1/models/reload")
NAMES = (
    *("user", "history", "k", "exclude_seen", "allow", "deny", "context", "features", "model"),
    *("budget_ms", "timings", "events", "item", "id", "time", "items", "title", "color", "page"),
)

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, -(2**63), 10**20, 10**400, 1e308, -0.0, 5e-324]),
)
texts = st.one_of(
    st.text(),  # lone surrogates are not among them
    st.sampled_from(
        ["", "\0", "\ud800", "\udfff x", "a" * 300, "a" * 5000, "i1", "u1", "../..", "\u202e"]
    ),
    st.sampled_from(["{{7*7}}", "%s%n", "'; DROP TABLE events; --", "__class__", "$ref", "nan"]),
    st.datetimes().map(str),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), texts), inner, max_size=4),
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=5)
# Some are nearly right: they come further.
events = st.fixed_dictionaries(
    {"user": st.one_of(st.just("u1"), scalars), "item": st.one_of(st.just("i1"), scalars)},
    optional={"id": scalars, "time": scalars, "context": st.dictionaries(texts, scalars)},
)
recommend = st.fixed_dictionaries(
    {},
    optional={
        "user": st.one_of(st.just("u1"), scalars),
        "history": st.lists(st.one_of(st.just("i1"), scalars), max_size=3),
        "k": numbers,
        "allow": st.lists(scalars, max_size=3),
        "deny": st.lists(scalars, max_size=3),
        "context": st.dictionaries(st.one_of(st.just("page"), texts), scalars, max_size=2),
        "features": st.dictionaries(st.one_of(st.just("country"), texts), scalars, max_size=2),
        "model": st.sampled_from(["m3", "towers", "popular"]),
        "budget_ms": numbers,
    },
)
new_items = st.fixed_dictionaries(
    {"id": st.one_of(st.just("n1"), scalars)},
    optional={"title": scalars, "features": st.dictionaries(st.just("color"), scalars)},
)
bodies = st.one_of(
    values,
    objects,
    recommend,
    st.fixed_dictionaries({"events": st.lists(events, max_size=3)}),
    st.fixed_dictionaries({"items": st.lists(new_items, max_size=2)}),
)
kinds = st.sampled_from(
    [
        "application/json",
        "text/plain",
        "",
        "application/json; charset=utf-16",
        "\u00fc/\u00fc",
        "a" * 999,
    ]
)
encodings = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "latin-1"])


@pytest.fixture(scope="module")
def caller(runs: Path) -> Iterator[Caller]:
    with serving(runs, max_k=50, max_history=20, max_events=10, max_body_bytes=4096) as caller:
        yield caller


def is_answered(status: int, body: bytes) -> None:
    """Check that an answer is one, and an error has its form."""
    assert status < 500, body
    if status >= 400:
        assert json.loads(body)["error"].keys() == {"code", "message"}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.sampled_from(TO_POST), bodies, kinds, encodings, st.data())
def test_bodies(
    caller: Caller, path: str, body: Any, kind: str, encoding: str, data: st.DataObject
) -> None:
    text = json.dumps(body)
    content = text.encode(encoding)
    if data.draw(st.integers(0, 4)) == 0:
        content = content[: data.draw(st.integers(0, len(content)))]
    if data.draw(st.integers(0, 9)) == 0:
        content += data.draw(st.binary(max_size=8))
    # A reload of good runs is no malformed request, and slow.
    if path.endswith("reload") and body == {}:
        return
    headers = {"content-type": kind.encode("latin-1")}
    response = caller.ask("POST", path, content=content, headers=headers)
    is_answered(response.status_code, response.content)


SEGMENTS = (
    *(b"v1", b"users", b"items", b"recommend", b"events", b"models", b"history", b"similar"),
    *(b"..", b".", b"", b"%2e%2e", b"%2F", b"%00", b"%ff%fe", b"%", b"%zz", b"%ED%A0%80", b"\xff"),
    *(
        b"healthz",
        b"metrics",
        b"i1",
        b"u1",
        b"a" * 300,
        b"%25",
        b"//",
        b"\\",
        b"?",
        b"#",
        b"{item}",
    ),
)
QUERIES = (
    *(b"", b"k=1", b"k=99999999999999999999", b"k=nan", b"limit=-1", b"model=m3", b"model=%00"),
    *(b"query=%ff", b"query=a&query=b", b"&&=&=", b"k=1;DROP", b"%=%", b"model=../m3"),
)
METHODS = (
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"HEAD",
    b"PATCH",
    b"TRACE",
    b"CONNECT",
    b"get",
    b"BREW",
    b"",
)
LINES = (
    *(
        b"Content-Type: application/json",
        b"Content-Type:",
        b"Content-Length: 5",
        b"Content-Length: -1",
    ),
    *(
        b"Content-Length: 99999999999999999999",
        b"Content-Length: abc",
        b"Transfer-Encoding: chunked",
    ),
    *(b"Transfer-Encoding: gzip, chunked", b"Host: evil.example", b"Host:", b"X: " + b"a" * 70_000),
    *(b"Authorization: Basic \xff\xfe", b"X-API-Key: \x00", b": none", b"no colon", b" folded: x"),
    *(b"Expect: 100-continue", b"Upgrade: websocket", b"Connection: Upgrade", b"Cookie: \xff=\xfe"),
    *(b"Accept-Encoding: nonsense", b"Range: bytes=0-1", b"Content-Encoding: gzip"),
)
CONTENTS = (
    *(
        b"",
        b"{}",
        b'{"user": "u1"}',
        b"5\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"zz\r\n",
    ),
    *(b"\0" * 50, b"\xff" * 50, b"[" * 5000, b'{"user": "\\ud800"}', b"GET / HTTP/1.1\r\n\r\n"),
)


def make_raw(random: Random) -> bytes:
    """Return the bytes of a request that is wrong in some places."""
    path = b"/" + b"/".join(random.choices(SEGMENTS, k=random.randrange(5)))
    if random.random() < 0.4:
        path = random.choice([p.encode() for p in TO_POST])
    query = random.choice(QUERIES)
    version = random.choice([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9", b""])
    first = random.choice(METHODS) + b" " + path + (b"?" + query if query else b"") + b" " + version
    lines = [first]
    content = random.choice(CONTENTS)
    if random.random() < 0.8:
        lines.append(b"Host: localhost")
    if random.random() < 0.5:
        lines.append(b"Content-Length: %d" % max(0, len(content) + random.choice([0, 0, -1, 3])))
        lines.append(b"Content-Type: application/json")
    lines += random.choices(LINES, k=random.randrange(3))
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + content
    if random.random() < 0.1:
        whole = whole[: random.randrange(len(whole))]
    if random.random() < 0.1:
        whole = bytearray(whole)  # type: ignore[assignment]
        whole[random.randrange(len(whole))] = random.randrange(256)  # type: ignore[index]
    return bytes(whole)


def send_raw(served: Served, content: bytes) -> bytes:
    """Return what the service answers to these bytes, at whose end the sender has left."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass  # it had enough
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # the same, told by shutdown
                raise
        return answer


def test_raw_bytes(services: Services, runs: Path, tmp_path: Path) -> None:
    random = Random(0)
    served = services.start(
        runs / "popular", store=f"sqlite:///{tmp_path / 'events.db'}", max_body_bytes=4096
    )
    answered = 0
    for number in range(RAW):
        content = make_raw(random)
        answer = send_raw(served, content)
        if answer:
            answered += 1
            status = answer.split(b" ", 2)[1]
            assert status.isdigit(), (number, content, answer)
            assert int(status) < 500, (number, content, answer)
    assert answered > RAW // 2
    assert served.lives()
    assert served.post("/v1/recommend", user="u1")["items"]
    assert "Traceback" not in served.log.read_text()
    served.end()
