"""What is looked at before a request is read."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ensue.errors import DataError
from ensue.serving import middleware
from ensue.serving.middleware import LOOPBACK, MAX_SENDERS, ApiKeys, Rates
from tests.serving.client import Caller, fault, serving

KEY, OTHER = "a key of 16 chars", "another key of the file"


@pytest.fixture(scope="module")
def guarded(runs: Path) -> object:
    with serving(
        runs, ("popular",), keys=ApiKeys([KEY, OTHER]), hosts=LOOPBACK, max_body_bytes=2048
    ) as caller:
        yield caller


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"X-API-Key": OTHER},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY} "},
        {"Authorization": basic(f"anybody:{KEY}")},
        {"Authorization": basic(f":{OTHER}")},
    ],
)
def test_who_has_a_key_is_answered(guarded: Caller, headers: dict[str, str]) -> None:
    assert guarded.ask("GET", "/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": f"{KEY}x"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": f"Digest {KEY}"},
        {"Authorization": basic(KEY)},
        {"Authorization": basic(f"{KEY}:")},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic \u00fc"},
    ],
)
def test_who_has_none_is_not(guarded: Caller, headers: dict[str, str]) -> None:
    encoded = {name: value.encode() for name, value in headers.items()}
    for path in ("/v1/models", "/metrics", "/none", "/v1/openapi.json"):
        response = guarded.ask("GET", path, headers=encoded)
        fault(response, 401, "unauthorized", KEY)
        assert response.headers["www-authenticate"].startswith("Basic realm=")


def test_a_load_balancer_needs_no_key(guarded: Caller) -> None:
    assert guarded.get("/healthz") == {"status": "ok"}
    assert guarded.get("/readyz") == {"status": "ready"}


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is compared, also after one that fits, and hashes are of one length."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(middleware, "hmac", Watched)
    keys = ApiKeys([KEY, OTHER])
    assert keys.knows(KEY.encode()) == hashlib.sha256(KEY.encode()).digest()
    assert keys.knows(b"\xff" * 1000) is None
    assert len(compared) == 4
    assert {len(digest) for pair in compared for digest in pair} == {32}
    assert KEY.encode() not in vars(keys)["_hashes"]


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# of the shop\n{KEY}\n\n  {OTHER}  \n", encoding="utf-8")
    assert ApiKeys.read(path).knows(OTHER.encode()) is not None
    for content, message in (
        (b"", "has one key a line; .* has none"),
        (b"# none\n", "has none"),
        (f"{KEY}\nshort".encode(), "at least 16 characters; key 2 of .* has 5"),
        (b"\xff\xfe\xfd" * 9, "it is no UTF-8 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            ApiKeys.read(path)
    with pytest.raises(DataError, match="No such file"):
        ApiKeys.read(tmp_path / "none")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LocalHost:80"]
)
def test_hosts_of_this_machine_are_answered(guarded: Caller, host: str) -> None:
    assert guarded.ask("GET", "/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8000", "localhost.evil.example", "localhost:1:2"]
)
def test_other_hosts_are_not(guarded: Caller, host: str) -> None:
    """A page elsewhere could give its own name this machine's address."""
    for path in ("/healthz", "/v1/models"):
        fault(guarded.ask("GET", path, headers={"host": host}), 421, "wrong_host")


def test_any_host_is_answered_where_none_is_named(caller: Caller) -> None:
    assert caller.ask("GET", "/healthz", headers={"host": "shop.example"}).status_code == 200


def test_a_body_may_be_so_large(guarded: Caller) -> None:
    def post(size: int) -> httpx.Response:
        content = b'{"history": []}'.ljust(size)
        headers = {"x-api-key": KEY, "content-type": "application/json"}
        return guarded.ask("POST", "/v1/recommend", content=content, headers=headers)

    assert post(2048).status_code == 200
    told = fault(post(2049), 413, "too_large")
    assert told == "a request may have 2,048 bytes."


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
def test_a_body_that_does_not_tell_its_size_is_cut_off(guarded: Caller, path: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 100

    headers = {"x-api-key": KEY}
    fault(guarded.ask("POST", path, content=parts(), headers=headers), 413, "too_large")


@pytest.mark.parametrize("length", ["-1", "a", "", "9" * 20, "9" * 5000, "1_0"])
def test_a_size_that_is_none_is_refused(guarded: Caller, length: str) -> None:
    headers = {"x-api-key": KEY, "content-length": length}
    response = guarded.ask("POST", "/v1/recommend", content=b"{}", headers=headers)
    fault(response, 413, "too_large")


def test_a_bucket_fills_at_the_rate() -> None:
    now = 0.0
    rates = Rates(2.0, clock=lambda: now)
    assert [rates.seconds_to_wait(b"a") for _ in range(3)] == [0, 0, 0.5]
    assert rates.seconds_to_wait(b"b") == 0
    now = 0.25
    assert rates.seconds_to_wait(b"a") == 0.25  # a request that was turned away costs nothing
    now = 0.5
    assert [rates.seconds_to_wait(b"a") for _ in range(2)] == [0, 0.5]
    now = 1000.0
    assert [rates.seconds_to_wait(b"a") for _ in range(3)] == [0, 0, 0.5]


def test_a_slow_rate_lets_one_in() -> None:
    now = 0.0
    rates = Rates(0.1, clock=lambda: now)
    assert rates.seconds_to_wait(b"a") == 0
    assert rates.seconds_to_wait(b"a") == pytest.approx(10)
    now = 10.0
    assert rates.seconds_to_wait(b"a") == 0


def test_only_so_many_senders_are_kept_in_mind() -> None:
    rates = Rates(1.0, clock=lambda: 0.0)
    for n in range(MAX_SENDERS + 10):
        rates.seconds_to_wait(str(n).encode())
    assert len(vars(rates)["_buckets"]) == MAX_SENDERS
    assert rates.seconds_to_wait(str(MAX_SENDERS + 9).encode()) == 1.0


def test_who_asks_too_often_is_told_when_to_come_back(runs: Path) -> None:
    keys = ApiKeys([KEY, OTHER])
    with serving(runs, ("popular",), keys=keys, rate=0.5) as caller:
        assert caller.ask("GET", "/v1/models", headers={"x-api-key": KEY}).status_code == 200
        response = caller.ask("GET", "/v1/models", headers={"x-api-key": KEY})
        fault(response, 429, "too_many_requests")
        assert response.headers["retry-after"] == "2"
        assert caller.ask("GET", "/v1/models", headers={"x-api-key": OTHER}).status_code == 200
        assert caller.ask("GET", "/v1/models", headers={"x-api-key": "x"}).status_code == 401
        assert caller.get("/healthz") == {"status": "ok"}
