"""Time, bytes and the line of JSON of a program that trains on a network of namespaces.

Imports PyTorch alone; every program of the benchmark, TorchRec's too, measures itself with it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor

from benchmarks.network.collectives import all_to_all_single

WARM_UP = 3


class Counter(Protocol):
    """What this process has sent by purpose, and the seconds it took, since it was cleared."""

    @property
    def sent(self) -> Mapping[str, float]: ...

    @property
    def seconds(self) -> Mapping[str, float]: ...

    def clear(self) -> None: ...


class Exchange:
    """Collectives on the default group, with what this process sends to others, and the seconds.

    sent: bytes by purpose; the share that a process keeps for itself is not sent. seconds: in
    collectives by purpose, with waiting for the other processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.sent: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)

    def all_to_all(
        self, values: Tensor, send: list[int], receive: list[int], *, purpose: str
    ) -> Tensor:
        """Return the rows of every process for this one; `send` and `receive` count rows."""
        out = values.new_empty((sum(receive), *values.shape[1:]))
        with self._timed(purpose):
            self._swap_(out, values, receive, send)
        row = values.shape[1:].numel() * values.element_size()
        self.sent[purpose] += (len(values) - send[self.rank]) * row
        return out

    def all_reduce_(self, values: Tensor, *, purpose: str) -> None:
        """Replace values by their sum; a ring sends 2 (N - 1) / N of their bytes."""
        with self._timed(purpose):
            self._sum_(values)
        size = values.numel() * values.element_size()
        self.sent[purpose] += 2 * size * (self.size - 1) / self.size

    def clear(self) -> None:
        """Forget what was counted."""
        self.sent.clear()
        self.seconds.clear()

    def _swap_(self, out: Tensor, values: Tensor, receive: list[int], send: list[int]) -> None:
        all_to_all_single(out, values, receive, send)

    def _sum_(self, values: Tensor) -> None:
        dist.all_reduce(values)

    @contextmanager
    def _timed(self, purpose: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[purpose] += time.perf_counter() - start


def measure(
    step: Callable[[], float],
    *,
    batch: int,
    steps: int,
    exchange: Counter | None = None,
    warm_up: int = WARM_UP,
) -> dict[str, Any]:
    """Take steps on all processes and return what they cost this one.

    Returns:
        samples_per_s of all processes, by the median step; seconds of every step of this one;
        cpu_s, of the processor a step; interface_bytes that left a step, None without a named
        interface; with an exchange sent_bytes and communication_s a step by purpose; loss of the
        last step.

    Args:
        step: takes a step and returns its loss.
        batch: rows of one process.
    """
    for _ in range(warm_up):
        step()
    dist.barrier()
    if exchange:
        exchange.clear()
    before, cpu = interface_bytes(), time.process_time()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    dist.barrier()
    after = interface_bytes()
    sent = None if before is None or after is None else (after - before) / steps
    result: dict[str, Any] = {
        "samples_per_s": dist.get_world_size() * batch / statistics.median(seconds),
        "seconds": seconds,
        "cpu_s": cpu / steps,
        "interface_bytes": sent,
        "loss": loss,
    }
    if exchange:
        result["sent_bytes"] = {name: value / steps for name, value in exchange.sent.items()}
        parts = exchange.seconds.items()
        result["communication_s"] = {name: value / steps for name, value in parts}
    return result


def interface_bytes() -> int | None:
    """Return what gloo's interface has sent; None where the environment names none."""
    name = os.environ.get("GLOO_SOCKET_IFNAME")
    path = Path(f"/sys/class/net/{name}/statistics/tx_bytes")
    return int(path.read_text()) if name and path.is_file() else None
