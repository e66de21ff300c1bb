"""Processes for tests of the distributed part: `run_workers(function, size, *args)`.

One pool of processes is made when it is first needed, reused by all tests of this pytest process,
and gone with it. They come from a fork server that has imported torch, so they start at once, and
find each other by a file in a folder of their own: several pools do not disturb each other.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

MAX_SIZE = 4
TIMEOUT_SECONDS = 60.0  # of a collective
START_SECONDS = 60.0  # more, for a function
PRELOADED = ["pytest", "numpy", "torch", "torch.distributed", "ensue.distributed.reductions"]


class WorkerError(Exception):
    """A worker failed; the text has its traceback."""


def run_workers(
    function: Callable[..., Any], size: int, *args: Any, timeout_seconds: float = TIMEOUT_SECONDS
) -> list[Any]:
    """Return function(workers, *args) of each of `size` workers, in rank order.

    Each has one thread, gloo, float32 as the default dtype, and fails at warnings.

    Args:
        function: of a module; it and its arguments and values are pickled.
        timeout_seconds: of a collective; the function may take START_SECONDS longer.

    Raises:
        WorkerError: with the traceback of the worker that failed first.
    """
    return _pool().run(function, size, args, timeout_seconds)


@dataclass(frozen=True)
class _Answer:
    value: Any
    failure: str
    time: float  # monotonic, the same clock for all processes


class _Pool:
    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.folder = Path(tempfile.mkdtemp(prefix="ensue-workers-"))
        self._calls = itertools.count()
        self._processes, self._pipes = [], []
        for _ in range(MAX_SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def run(
        self, function: Callable[..., Any], size: int, args: tuple[Any, ...], timeout: float
    ) -> list[Any]:
        assert 1 <= size <= MAX_SIZE
        store = self.folder / str(next(self._calls))
        for rank, pipe in enumerate(self._pipes[:size]):
            pipe.send_bytes(pickle.dumps((function, args, str(store), rank, size, timeout)))
        answers: dict[int, _Answer] = {}
        waiting = {pipe: rank for rank, pipe in enumerate(self._pipes[:size])}
        deadline = time.monotonic() + timeout + START_SECONDS
        while waiting and (ready := wait(list(waiting), max(deadline - time.monotonic(), 0))):
            for pipe in ready:
                answers[waiting.pop(pipe)] = _receive(pipe)
        for rank in waiting.values():
            answers[rank] = _Answer(None, "no answer in time", time.monotonic())
        failures = [(answers[rank].time, rank) for rank in answers if answers[rank].failure]
        if failures:
            self.close()  # torch may remember half a group in some process
            _, rank = min(failures)
            raise WorkerError(f"worker {rank} of {size}: {answers[rank].failure}")
        return [answers[rank].value for rank in range(size)]

    def close(self) -> None:
        """End the processes; the next call makes new ones."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        _pools.clear()


def _receive(pipe: Any) -> _Answer:
    try:
        answer: _Answer = pickle.loads(pipe.recv_bytes())
        return answer
    except (EOFError, ConnectionResetError):
        return _Answer(None, "the process has ended", time.monotonic())


_pools: list[_Pool] = []


def _pool() -> _Pool:
    if not _pools:
        _pools.append(_Pool())
    return _pools[0]


@atexit.register
def _close() -> None:
    for pool in list(_pools):
        pool.close()


def _serve(pipe: Any) -> None:
    import torch

    if sys.platform == "linux":  # so that no name of this machine has to be looked up
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answer(request))


def _answer(request: bytes) -> bytes:
    """Return the pickled answer to a request."""
    import torch.distributed as dist

    from ensue.distributed.workers import Workers

    try:
        function, args, store, rank, size, timeout = pickle.loads(request)
        with Workers.join(
            dist.FileStore(store, size), rank, size, timeout_seconds=timeout
        ) as workers:
            value = function(workers, *args)
            return pickle.dumps(_Answer(value, "", time.monotonic()))
    except BaseException:
        return pickle.dumps(_Answer(None, traceback.format_exc(), time.monotonic()))
