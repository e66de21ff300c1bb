"""Real servers for the slow tests, in a folder of their own, which a test may stop or freeze."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import mkdtemp

import pytest

WAIT_S = 30.0
PASSWORD = "se:cr@et"
PASSWORD_IN_URL = "se%3Acr%40et"
slow = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("redis", "postgresql")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server(ABC):
    """What `stop` leaves is there again after `start`.

    orderly: the signal after which it ends in peace. at_once: that after which it recovers from its
    log.
    """

    url: str
    orderly: signal.Signals
    at_once: signal.Signals

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="ensue-server-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool: ...

    def owner(self) -> str | None:
        return None

    def start(self) -> None:
        assert self.process is None
        log = (self.folder / "log").open("ab")
        user = self.owner()
        self.process = subprocess.Popen(
            self.command(), stdout=log, stderr=log, user=user, cwd=self.folder
        )
        log.close()
        until = time.monotonic() + WAIT_S
        while not self.answers():
            if time.monotonic() > until or self.process.poll() is not None:
                self.stop(self.at_once)
                raise RuntimeError((self.folder / "log").read_text(errors="replace"))
            time.sleep(0.05)

    def stop(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(WAIT_S)
            self.process = None

    def freeze(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """The server and its children."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def remove(self) -> None:
        self.stop(self.at_once)
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer(Server):
    orderly, at_once = signal.SIGTERM, signal.SIGKILL

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.settings = {"appendonly": "yes", "appendfsync": "always", **settings}
        self.url = f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        fixed = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "requirepass": PASSWORD,
        }
        settings = {**fixed, **self.settings}
        return ["redis-server", *(part for k, v in settings.items() for part in (f"--{k}", v))]

    def answers(self) -> bool:
        import redis

        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class PostgresServer(Server):
    """Killed, it would leave children that hold its place for a while."""

    orderly, at_once = signal.SIGINT, signal.SIGQUIT

    def __init__(self) -> None:
        super().__init__()
        self.url = f"postgresql://tester:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/postgres"
        (self.folder / "password").write_text(PASSWORD)
        user = self.owner()
        if user is not None:
            shutil.chown(self.folder, user)
        self.folder.chmod(0o755)
        initdb = [program("initdb"), "--no-sync", "--encoding=UTF8", "--locale=C"]
        initdb += ["--username=tester", "--auth=scram-sha-256", "--pwfile=password", "data"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.folder, user=user)

    def owner(self) -> str | None:
        """It refuses to run as root."""
        if os.getuid() != 0:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in known else "nobody"

    def command(self) -> list[str]:
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)]
        return [program("postgres"), "-D", "data", *options]

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True


def program(name: str) -> str:
    """The path of a program of PostgreSQL; Debian does not put them on the PATH."""
    homes = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = shutil.which(name) or next(map(str, homes), None)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return found


def require_redis() -> None:
    pytest.importorskip("redis", reason="the package redis is not installed")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")


def require_postgres() -> None:
    pytest.importorskip("psycopg", reason="the package psycopg is not installed")
    program("initdb")
    program("postgres")


def empty_redis(url: str) -> None:
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushall()


def empty_postgres(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute(
            "DROP TABLE IF EXISTS ensue_events, ensue_items, ensue_format;"
            "DROP SEQUENCE IF EXISTS ensue_arrivals"
        )
