"""A service in a process of its own, and requests to it at moments that are set beforehand.

The client is open-loop: a request has its moment whatever became of those before it, and what it
took is counted from that moment, so a service that falls behind does not hide it by being asked
less. It is one thread that sleeps in select(), so that it leaves the cores to the service.
Shapes: n requests.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

HOST = "127.0.0.1"
SECONDS_TO_START = 120.0
SECONDS_TO_ANSWER = 10.0  # a request that takes longer ends the measurement
CONNECTIONS = 64
TICKS = os.sysconf("SC_CLK_TCK")
WRK = """
local bodies, count, place = {}, 0, 0
function init(args)
  for body in io.lines(args[1]) do count = count + 1; bodies[count] = body end
end
function request()
  place = place % count + 1
  local headers = {["Content-Type"] = "application/json"}
  return wrk.format("POST", "/v1/recommend", headers, bodies[place])
end
function done(summary, latency)
  local failed = summary.errors
  local errors = failed.status + failed.timeout + failed.read + failed.connect
  local us = {latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max}
  io.write(string.format("found %d %d %d %.0f %.0f %.0f %.0f\\n", summary.requests,
    summary.duration, errors, us[1], us[2], us[3], us[4]))
end
"""


@dataclass(frozen=True)
class Offered:
    """What became of requests.

    milliseconds: [n], from the moment of a request to the end of its answer; of those that were
        not answered as they should there is none. seconds: from the first to the last.
    """

    milliseconds: NDArray[np.float64]
    seconds: float
    errors: int

    def to_row(self) -> dict[str, float]:
        """Return the figures of a report."""
        at = np.percentile(self.milliseconds, [50, 95, 99, 100]) if len(self.milliseconds) else ()
        figures = dict(zip(("p50 ms", "p95 ms", "p99 ms", "max ms"), map(float, at), strict=False))
        rate = len(self.milliseconds) / self.seconds
        return {"requests/s": rate, **figures, "errors": self.errors}


@dataclass
class Server:
    """A service that runs. cpu_s and memory_mb read what Linux counts of the process."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time so far, of all threads."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / TICKS

    @property
    def memory_mb(self) -> float:
        """Memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def serving(run: Path, *options: str) -> Iterator[Server]:
    """Start `ensue serve` on a free port with a new store, and end it."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "ensue", "serve", str(run), "--port", "0"]
        command += ["--store", f"sqlite:///{folder}/events.db", *options]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            yield Server(process, _wait_for_port(process, log))
        finally:
            process.terminate()
            process.wait(SECONDS_TO_START)


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(rf"http://{HOST}:(\d+)/", log.read_text(errors="replace")):
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start: {log.read_text(errors='replace')}")


def even_moments(rate: float, seconds: float) -> NDArray[np.float64]:
    """Return moments at equal distances."""
    return np.arange(round(rate * seconds)) / rate


def random_moments(rate: float, seconds: float) -> NDArray[np.float64]:
    """Return moments that know nothing of each other (a Poisson process), as users have them."""
    gaps = np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
    return np.cumsum(gaps)


def post(path: str, body: str) -> bytes:
    """Return a request as it is sent."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()


def get(path: str) -> bytes:
    """Return a request without a body as it is sent."""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


@dataclass(eq=False)
class _Connection:
    """A connection, and the number of the request that it waits for an answer to."""

    socket: socket.socket
    request: int = -1
    answer: bytearray = field(default_factory=bytearray)

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self) -> int | None:
        """Return the status of the answer once it is whole; 0 where the connection is closed."""
        part = self.socket.recv(1 << 16)
        if not part:
            return 0
        self.answer += part
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not found:
            return None
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length is None or len(body) < int(length[1]):
            return None
        self.answer.clear()
        return int(head[9:12])


def offer(port: int, requests: Sequence[bytes], moments: NDArray[np.float64]) -> Offered:
    """Send each request at its moment; where no connection is free, as soon as one is.

    Raises:
        RuntimeError: nothing is answered for a while, or a connection is closed.
    """
    free = deque(_connect(port) for _ in range(CONNECTIONS))
    every, sent, errors = [*free], 0, 0
    busy: set[_Connection] = set()
    taken = np.full(len(requests), np.nan)
    due = moments.tolist()
    start = time.perf_counter() + 0.01
    try:
        while sent < len(due) or busy:
            now = time.perf_counter() - start
            while sent < len(due) and due[sent] <= now and free:
                connection = free.popleft()
                connection.request = sent
                connection.socket.sendall(requests[sent])
                busy.add(connection)
                sent += 1
            waits = sent < len(due) and free
            timeout = max(due[sent] - now, 0) if waits else SECONDS_TO_ANSWER
            readable = select.select([*busy], (), (), timeout)[0]
            if not readable and not waits:
                raise RuntimeError(f"no answer within {SECONDS_TO_ANSWER:g} seconds")
            for connection in readable:
                status = connection.read()
                if status is None:
                    continue
                if status == 0:
                    raise RuntimeError("the service closed a connection")
                if status == 200:
                    ended = time.perf_counter() - start
                    taken[connection.request] = 1000 * (ended - due[connection.request])
                errors += status != 200
                busy.remove(connection)
                free.append(connection)
        return Offered(taken[~np.isnan(taken)], time.perf_counter() - start, errors)
    finally:
        for connection in every:
            connection.socket.close()


def _connect(port: int) -> _Connection:
    opened = socket.create_connection((HOST, port), timeout=SECONDS_TO_ANSWER)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Connection(opened)


def saturate(
    port: int, bodies: Sequence[str], *, connections: int, seconds: int
) -> dict[str, float]:
    """Return what wrk finds where each connection asks anew as soon as it is answered.

    Args:
        bodies: of requests to /v1/recommend, taken in turn.
    """
    with TemporaryDirectory() as folder:
        script, lines = Path(folder) / "load.lua", Path(folder) / "bodies"
        script.write_text(WRK)
        lines.write_text("\n".join(bodies) + "\n")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
        command += [f"http://{HOST}:{port}", "--", str(lines)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = [float(text) for text in told.partition("found ")[2].split()]
    requests, duration, errors, *us = numbers
    at = dict(zip(("p50 ms", "p95 ms", "p99 ms", "max ms"), (u / 1000 for u in us), strict=True))
    return {"requests/s": requests / (duration / 1e6), **at, "errors": int(errors)}


def has_wrk() -> bool:
    """Whether wrk can be called."""
    return shutil.which("wrk") is not None
