"""Services in processes of their own: killed, told to end, reloaded and without their store."""

from __future__ import annotations

import http.client
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ensue.serving.stores.open import open_store
from tests.serving.forking import Served, Services, ask, ask_on
from tests.serving.servers import Server, free_port, slow
from tests.serving.test_reload import scale

pytestmark = pytest.mark.slow
ALL = 1_000_000
KINDS = ["sqlite", *slow]
GONE = (ConnectionError, http.client.HTTPException)


def event(user: str, id: str, item: str = "i1") -> dict[str, Any]:
    return {"user": user, "id": id, "item": item}


class Writers:
    """Send events until the service is gone; what was not acknowledged is sent again later.

    acknowledged: ids of each user. pending: the request of each user that has no answer.
    """

    def __init__(self, users: list[str]) -> None:
        self.users = users
        self.acknowledged: dict[str, set[str]] = {user: set() for user in users}
        self.pending: dict[str, list[str]] = {user: [] for user in users}
        self._sent = dict.fromkeys(users, 0)

    def write(self, port: int, user: str, began: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            while True:
                if not self.pending[user]:
                    first = self._sent[user]
                    self._sent[user] += 1 + first % 3
                    self.pending[user] = [f"{n}" for n in range(first, self._sent[user])]
                events = [event(user, id) for id in self.pending[user]]
                try:
                    status, _, answer = ask_on(connection, "POST", "/v1/events", {"events": events})
                except GONE:
                    return
                assert status == 200, answer
                assert answer["stored"] + answer["duplicates"] == len(events)
                self.acknowledged[user] |= set(self.pending[user])
                self.pending[user] = []
                began.set()

    def write_until_killed(self, served: Served, seconds: float) -> None:
        began = threading.Event()
        with ThreadPoolExecutor(len(self.users)) as threads:
            writing = [threads.submit(self.write, served.port, u, began) for u in self.users]
            assert began.wait(30)
            time.sleep(seconds)
            served.end()
            for each in writing:
                each.result()


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_a_kill_during_writes_loses_and_doubles_nothing(
    services: Services, runs: Path, url: str
) -> None:
    rounds = 100 if url.startswith("sqlite") else 10
    random, port = Random(0), free_port()
    writers = Writers(["a", "b", "c"])
    for _ in range(rounds):
        served = services.start(runs / "popular", store=url, port=port, max_history=ALL)
        writers.write_until_killed(served, random.uniform(0.0, 0.1))
        with closing(open_store(url)) as store:
            stored = [[e.id for e in events] for events in store.read(writers.users, ALL)]
        for user, ids in zip(writers.users, stored, strict=True):
            assert len(ids) == len(set(ids))
            assert writers.acknowledged[user] <= set(ids)
            assert set(ids) <= writers.acknowledged[user] | set(writers.pending[user])
    assert sum(map(len, writers.acknowledged.values())) > 5 * rounds
    served = services.start(runs / "popular", store=url, port=port, max_history=ALL)
    for user in writers.users:
        pending = writers.pending[user]
        if pending:
            served.post("/v1/events", events=[event(user, id) for id in pending])
        _, _, history = served.ask("GET", f"/v1/users/{user}/history")
        assert history["total"] == len(writers.acknowledged[user] | set(pending))
    served.end()


@contextmanager
def load(port: int, num_clients: int = 4) -> Iterator[list[tuple[int, Any]]]:
    """Ask all the while; yield the statuses and bodies of the answers."""
    answers: list[tuple[int, Any]] = []
    stop = threading.Event()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        bodies = [{"user": f"u{number}"}, {"history": [f"i{number}"]}]
        with closing(connection):
            while not stop.is_set():
                body = bodies[len(answers) % 2]
                status, _, answer = ask_on(connection, "POST", "/v1/recommend", body)
                answers.append((status, answer))

    with ThreadPoolExecutor(num_clients) as threads:
        clients = [threads.submit(client, n) for n in range(num_clients)]
        try:
            yield answers
        finally:
            stop.set()
        for each in clients:
            each.result()


def test_a_reload_under_load_drops_no_request(
    services: Services, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "m3", tmp_path / "m3")
    served = services.start(tmp_path / "m3", store=f"sqlite:///{tmp_path / 'events.db'}")
    weights = set()
    with load(served.port) as answers:
        for number in range(20):
            scale(tmp_path / "m3", 2.0 if number % 2 else 0.5)
            (model,) = served.post("/v1/models/reload")["models"]
            weights.add(model["weights"])
        until = time.monotonic() + 10
        while len(answers) < 200 and time.monotonic() < until:
            time.sleep(0.05)
    assert {status for status, _ in answers} == {200}
    assert {len(answer["items"]) for _, answer in answers} == {10}
    assert len(weights) == 2
    assert len(answers) >= 200
    served.end()


def test_what_is_in_flight_at_the_end_is_answered(
    services: Services, runs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    served = services.start(runs / "popular", store=f"sqlite:///{path}")
    with ThreadPoolExecutor(8) as threads, closing(sqlite3.connect(path)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")  # until it ends, writes wait
        writes = [
            threads.submit(served.ask, "POST", "/v1/events", {"events": [event("a", f"{n}")]})
            for n in range(8)
        ]
        time.sleep(0.5)
        ending = threading.Thread(target=served.end, args=(signal.SIGTERM,))
        ending.start()
        time.sleep(0.3)
        assert not any(write.done() for write in writes)
        other.execute("ROLLBACK")
        assert [write.result()[0] for write in writes] == [200] * 8
        ending.join()
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert {e.id for e in store.read(["a"], ALL)[0]} == {f"{n}" for n in range(8)}


def test_the_command_serves_until_it_is_told_to_end(runs: Path, tmp_path: Path) -> None:
    """Under load: each request is answered whole, or its connection ends without a word."""
    port, key = free_port(), "a key of 16 chars"
    (tmp_path / "keys").write_text(f"{key}\n")
    command = [sys.executable, "-m", "ensue", "serve", str(runs / "m3"), "--port", str(port)]
    command += ["--store", f"sqlite:///{tmp_path / 'events.db'}", "--set", "max_k=20"]
    command += ["--api-key-file", str(tmp_path / "keys")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if line.startswith("Serving"))
        assert told == f"Serving m3 at http://127.0.0.1:{port}/ with events in sqlite.\n"
        until = time.monotonic() + 30
        while True:
            try:
                assert ask(port, "POST", "/v1/recommend", {"user": "u1"})[0] == 401
                break
            except ConnectionError:
                assert time.monotonic() < until
                time.sleep(0.05)
        answered, ended = [0], [0]

        def client() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            headers = {"content-type": "application/json", "x-api-key": key}
            with closing(connection):
                while True:
                    try:
                        connection.request("POST", "/v1/recommend", '{"user": "u1"}', headers)
                        response = connection.getresponse()
                    except GONE:
                        ended[0] += 1
                        return
                    assert response.status == 200
                    assert len(response.read()) == int(response.headers["content-length"])
                    answered[0] += 1

        with ThreadPoolExecutor(4) as threads:
            clients = [threads.submit(client) for _ in range(4)]
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            for each in clients:
                each.result()
        assert process.wait(30) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    assert (answered[0] > 20, ended[0]) == (True, 4)


def without_store(served: Served, *, may_read: bool = False) -> None:
    """Check what is answered while the store is away."""
    needs = [
        ("POST", "/v1/events", {"events": [event("a", "refused")]}),
        ("DELETE", "/v1/users/a", None),
        ("POST", "/v1/items", {"items": [{"id": "n1"}]}),
    ]
    reads = [
        ("POST", "/v1/recommend", {"user": "a"}),
        ("GET", "/v1/users/a/history", None),
        ("GET", "/readyz", None),
        ("POST", "/v1/models/reload", {}),
    ]
    for method, path, body in needs if may_read else [*needs, *reads]:
        status, headers, answer = served.ask(method, path, body)
        assert status == 503, (path, answer)
        assert answer["error"] == {
            "code": "store_unavailable",
            "message": "the store of events cannot be reached now; nothing was changed. Try again.",
        }
        assert headers["retry-after"] == "1"
    assert served.post("/v1/recommend", history=["i1"])["items"]
    assert served.ask("GET", "/v1/items/i1/similar")[0] == 200
    assert served.ask("GET", "/healthz")[0] == 200


def wait_for_store(served: Served) -> None:
    until = time.monotonic() + 10
    while served.ask("GET", "/readyz")[0] != 200:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("url", slow, indirect=True)
@pytest.mark.parametrize("how", ["stop", "freeze"])
def test_a_server_that_goes_away_is_told_and_found_again(
    services: Services, runs: Path, url: str, how: str, request: pytest.FixtureRequest
) -> None:
    name = "redis_server" if url.startswith("redis") else "postgres_server"
    server: Server = request.getfixturevalue(name)
    served = services.start(runs / "towers", store=url)
    served.post("/v1/events", events=[event("a", "1")])
    if how == "stop":
        server.stop(server.at_once)
    else:
        server.freeze()
    try:
        without_store(served)
    finally:
        if how == "stop":
            server.start()
        else:
            server.thaw()
    wait_for_store(served)
    served.post("/v1/events", events=[event("a", "1"), event("a", "2")])
    _, _, history = served.ask("GET", "/v1/users/a/history")
    assert history["total"] in ((2,) if how == "stop" else (0, 1, 2, 3))  # a frozen one may do it
    assert "i1" not in served.post("/v1/recommend", user="a", k=1000)["items"]
    served.end()


def test_a_file_that_is_locked_or_gone_is_told_and_found_again(
    services: Services, runs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    served = services.start(runs / "towers", store=f"sqlite:///{path}")
    served.post("/v1/events", events=[event("a", "1")])
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    program += "c.execute('BEGIN EXCLUSIVE'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        without_store(served, may_read=True)
        other.communicate(b"\n")
    assert served.post("/v1/events", events=[event("a", "1"), event("a", "2")])["stored"] == 1
    shutil.move(path, tmp_path / "away")
    without_store(served)
    shutil.move(tmp_path / "away", path)
    wait_for_store(served)
    assert served.ask("GET", "/v1/users/a/history")[2]["total"] == 2
    served.end()


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_an_event_is_in_the_next_answer(services: Services, runs: Path, url: str) -> None:
    served = services.start(runs / "m3", store=url)

    def write_and_read(user: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        with closing(connection):
            for number in range(15):
                body = {"user": f"reader {user}", "k": 40}
                before = ask_on(connection, "POST", "/v1/recommend", body)[2]["items"]
                assert len(before) == 40 - number
                told = {"events": [event(f"reader {user}", f"{number}", before[number % 3])]}
                assert ask_on(connection, "POST", "/v1/events", told)[0] == 200
                after = ask_on(connection, "POST", "/v1/recommend", body)[2]["items"]
                assert sorted(after) == sorted(set(before) - {before[number % 3]})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_and_read, range(4)))
    served.end()
