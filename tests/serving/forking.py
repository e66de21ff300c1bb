"""Real services, forked from a process that has imported everything: Python takes seconds to start.

Run as a program, it forks a service for each line of its input, the arguments of `serve` as JSON,
and prints the number of the process. It opens nothing itself: threads do not outlive a fork.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.serving.servers import WAIT_S, free_port


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    """Return the status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        return ask_on(connection, method, path, body)
    finally:
        connection.close()


def ask_on(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, dict[str, str], Any]:
    headers = {"content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read()
    told = {name.lower(): value for name, value in response.getheaders()}
    is_json = told.get("content-type") == "application/json"
    return response.status, told, json.loads(text) if is_json else text


class Served:
    """A service in a process of its own."""

    def __init__(self, pid: int, port: int, log: Path) -> None:
        self.pid, self.port, self.log = pid, port, log

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        return ask(self.port, method, path, body)

    def post(self, path: str, **body: Any) -> Any:
        status, _, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return answer

    def wait_until_ready(self) -> None:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                if self.ask("GET", "/healthz")[0] == 200:
                    return
            except OSError:
                if time.monotonic() > until or not self.lives():
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.01)

    def lives(self) -> bool:
        """Whether the process is there; one that has ended and was not waited for is not."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):  # it may end while it is read
            return False

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, and wait until the process is gone."""
        try:
            os.kill(self.pid, how)
        except ProcessLookupError:
            return
        until = time.monotonic() + WAIT_S
        while self.lives():
            assert time.monotonic() < until, "the service does not end"
            time.sleep(0.005)


class Services:
    """Starts services, and ends them all when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, list[Served]()
        self._errors = (folder / "parent.log").open("w+b")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=Path(__file__).parents[2],
            env=environment,
        )

    def start(self, *runs: Path, port: int | None = None, **options: Any) -> Served:
        """Return a service of runs that answers; `options` are those of `serve`."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        port = port or free_port()
        log = self._folder / f"{len(self._started)}.log"
        line = {"runs": [str(run) for run in runs], "port": port, **options}
        self._parent.stdin.write(json.dumps([str(log), line]) + "\n")
        self._parent.stdin.flush()
        pid = self._parent.stdout.readline()
        if not pid:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read().decode())
        served = Served(int(pid), port, log)
        self._started.append(served)
        served.wait_until_ready()
        return served

    def close(self) -> None:
        for served in self._started:
            served.end()
        self._parent.communicate()
        self._errors.close()


def main() -> None:
    import uvicorn.lifespan.on
    import uvicorn.loops.auto
    import uvicorn.protocols.http.auto  # noqa: F401

    import ensue.serving.app
    import ensue.serving.service
    import ensue.serving.stores.sqlite_store  # noqa: F401
    from ensue.serving.server import serve

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    for line in sys.stdin:
        log, options = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            serve(**options)
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
