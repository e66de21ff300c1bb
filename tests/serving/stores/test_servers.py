"""Redis and PostgreSQL as they are: they stop, stand still, come back, and are set up wrongly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ensue.errors import DataError, UsageError
from ensue.serving.events import Event
from ensue.serving.stores.base import TIMEOUT_S, HistoryStore, StoreUnavailable
from ensue.serving.stores.open import open_store
from tests.serving.servers import (
    PASSWORD,
    PASSWORD_IN_URL,
    RedisServer,
    Server,
    empty_redis,
    slow,
)

pytestmark = pytest.mark.slow
SOON_S = 3 * TIMEOUT_S  # of a busy machine
both = pytest.mark.parametrize("url", slow, indirect=True)
of_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)
of_postgres = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@pytest.fixture
def server(url: str, request: pytest.FixtureRequest) -> Server:
    name = "redis_server" if url.startswith("redis") else "postgres_server"
    return request.getfixturevalue(name)


def event(id: str, user: str = "u") -> Event:
    return Event(user, id, "item", 0)


def ids(store: HistoryStore, user: str = "u") -> list[str]:
    return [event.id for event in store.read([user], 10_000)[0]]


def assert_everything_is_unavailable(store: HistoryStore) -> None:
    calls = [
        store.check,
        lambda: store.append([event("refused")]),
        lambda: store.read(["u"], 1),
        lambda: store.delete_user("u"),
        lambda: store.expire(1),
        lambda: store.add_items([{}], ["refused"]),
        store.items,
    ]
    for call in calls:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="must be reachable") as refused:
            call()
        assert time.monotonic() - start < SOON_S
        assert PASSWORD not in str(refused.value)
        assert "127.0.0.1" not in str(refused.value)


@both
@pytest.mark.parametrize("is_orderly", [True, False])
def test_a_server_that_went_away_is_used_again_when_it_is_back(server, store, is_orderly):
    with ThreadPoolExecutor(4) as threads:  # several connections, all of which go stale
        list(threads.map(lambda n: store.append([event(f"{n}")]), range(20)))
    store.add_items([{"n": 1}], ["i"])
    server.stop(server.orderly if is_orderly else server.at_once)
    assert_everything_is_unavailable(store)
    server.start()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: len(ids(store)), range(8))) == [20] * 8
    assert store.append([event("0"), event("new")]) == [False, True]
    assert store.items() == [("i", {"n": 1})]


@both
def test_a_restart_between_two_calls_goes_unnoticed(server, store):
    store.append([event("1")])
    server.stop(server.orderly)
    server.start()
    assert store.append([event("1"), event("2")]) == [False, True]
    assert ids(store) == ["1", "2"]


@both
def test_a_server_that_stands_still_holds_nobody_up(server, store):
    store.append([event("1")])
    server.freeze()
    try:
        assert_everything_is_unavailable(store)
    finally:
        server.thaw()
    assert store.append([event("2")]) == [True]
    assert set(ids(store)) <= {"1", "2", "refused"}


@both
def test_events_acknowledged_while_a_server_dies_are_there_exactly_once(server, store):
    """Writers go on through two deaths; what was not acknowledged is sent again."""
    acknowledged: list[str] = []

    def write(writer: int) -> None:
        for n in range(150):
            while True:
                try:
                    store.append([event(f"{writer}-{n}")])
                    break
                except StoreUnavailable:
                    time.sleep(0.02)
            acknowledged.append(f"{writer}-{n}")

    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(write, writer) for writer in range(4)]
        for _ in range(2):
            time.sleep(0.15)
            server.stop(server.at_once)
            server.start()
        for writer in writers:
            writer.result()
    assert sorted(ids(store)) == sorted(acknowledged)
    assert len(acknowledged) == 600


@both
def test_what_is_said_at_opening_holds_no_password(server, url):
    wrong = url.replace(PASSWORD_IN_URL, "wr%40ng-secret")
    closed = url.replace(f":{server.port}", ":1")
    for bad in (wrong, closed):
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"history store at .* it says: .+") as refused:
            open_store(bad)
        assert time.monotonic() - start < SOON_S
        for secret in ("wr%40ng", "wr@ng", PASSWORD, PASSWORD_IN_URL):
            assert secret not in str(refused.value)
    is_redis = url.startswith("redis")
    malformed = url.replace(f":{server.port}", ":port") if is_redis else f"{url}?nonsense=1"
    with pytest.raises(UsageError, match=r"the URL of a .* must be .*://USER") as refused:
        open_store(malformed)
    assert PASSWORD_IN_URL not in str(refused.value)


@both
def test_histories_of_another_version_are_refused(url):
    open_store(url).close()
    if url.startswith("redis"):
        import redis

        with redis.Redis.from_url(url) as client:
            client.set("ensue:format", "2")
    else:
        import psycopg

        with psycopg.connect(url) as connection:
            connection.execute("UPDATE ensue_format SET version = 2")
    with pytest.raises(DataError, match=r"must be of version 1; .*is of version 2"):
        open_store(url)


@of_redis
def test_redis_keeps_no_key_of_users_that_are_gone(url, store):
    import redis

    store.append([Event(f"{n % 7}", f"{n}", "i", n) for n in range(3000)])
    store.append([Event("stays", "1", "i", 10_000)])
    store.delete_user("3")
    store.expire(5000)
    with redis.Redis.from_url(url) as client:
        keys = sorted(client.keys())
    assert keys == [
        b"ensue:arrivals",
        b"ensue:format",
        b"ensue:history:stays",
        b"ensue:ids:stays",
    ]


@pytest.fixture
def own_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """One more Redis, which a test sets up; the first says whether there can be one."""
    server = RedisServer(appendfsync="everysec")
    try:
        server.start()
        yield server
    finally:
        server.remove()


def test_a_redis_that_loses_events_is_refused(own_redis, capsys):
    import redis

    open_store(own_redis.url).close()
    note = capsys.readouterr().err
    assert "appendfsync everysec: if its machine loses power" in note
    assert PASSWORD not in note
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("appendfsync", "always")
        open_store(own_redis.url).close()
        assert capsys.readouterr().err == ""
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(UsageError, match=r"must keep all keys; .*maxmemory-policy allkeys-lru"):
            open_store(own_redis.url)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        with pytest.raises(UsageError, match=r"on disk; redis://127.*appendonly no.*Start it with"):
            open_store(own_redis.url)
        rights = ["+@all", "-config"]
        client.acl_setuser("mild", enabled=True, passwords=["+p"], keys=["*"], commands=rights)
    mild = own_redis.url.replace(f":{PASSWORD_IN_URL}", "mild:p")
    store = open_store(mild)
    assert "does not tell its settings" in capsys.readouterr().err
    assert store.append([event("1")]) == [True]
    store.close()


@of_redis
def test_a_redis_that_is_full_refuses_whole_calls(url, store):
    import redis

    store.append([event("1")])
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(StoreUnavailable):
                store.append([event(f"more {n}") for n in range(10)])
            assert ids(store) == ["1"]
        finally:
            client.config_set("maxmemory", "0")
    assert store.append([event("2")]) == [True]
    empty_redis(url)


@of_postgres
def test_calls_that_bring_the_same_events_in_another_order_do_not_block_each_other(store):
    events = [event(f"{n}", user=f"user {n % 5}") for n in range(400)]
    with ThreadPoolExecutor(8) as threads:
        calls = [events if n % 2 else events[::-1] for n in range(24)]
        answers = list(threads.map(store.append, calls))
    assert sum(map(sum, answers)) == 400


@of_postgres
def test_a_locked_table_is_waited_for_only_so_long(url, store):
    import psycopg

    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE ensue_events IN ACCESS EXCLUSIVE MODE")
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.append([event("1")])
        assert time.monotonic() - start < SOON_S
        other.rollback()
    assert store.append([event("1")]) == [True]


@of_postgres
def test_a_database_that_cannot_hold_histories_is_refused(server, url):
    import psycopg

    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS latin")
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        with pytest.raises(UsageError, match=r"must be of UTF8; .*/latin is of LATIN1"):
            open_store(url.replace("/postgres", "/latin"))
        admin.execute("DROP DATABASE latin")
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        guest = url.replace(f"tester:{PASSWORD_IN_URL}", "guest:guest")
        with pytest.raises(StoreUnavailable, match=r"make tables; it says: permission denied"):
            open_store(guest)
        admin.execute("DROP ROLE guest")
        admin.execute("ALTER SYSTEM SET fsync = off")
        admin.execute("SELECT pg_reload_conf()")
        try:
            wait_for_fsync(admin, "off")
            with pytest.raises(UsageError, match=r"must keep what .* on disk; .*fsync off"):
                open_store(url)
        finally:
            admin.execute("ALTER SYSTEM RESET fsync")
            admin.execute("SELECT pg_reload_conf()")
            wait_for_fsync(admin, "on")


def wait_for_fsync(admin, value: str) -> None:
    for _ in range(200):
        if admin.execute("SHOW fsync").fetchone() == (value,):
            return
        time.sleep(0.02)
