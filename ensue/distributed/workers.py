"""The processes of a training, and the collectives between them, each byte counted.

Everything that goes from one process to another passes here. torch.distributed does the work: gloo
for tensors in host memory, NCCL for those of a GPU. A single process needs no process group: every
collective is then the identity and sends nothing.
There are three process groups, one for ids, one for dense gradients, one for the rest, so that one
thread may use each of them at a time: ids of the next batch travel while this one computes. All
workers must call the collectives of a group in the same order. (NCCL wants those of all groups in
one order: a thread beside a GPU keeps its ids in host memory.)
Shapes: N workers, b rows of one worker, ... any more dimensions.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from ensue.distributed.environment import pick_device, read_environment
from ensue.distributed.meeting import meet
from ensue.distributed.traffic import (
    Purpose,
    Traffic,
    all_gather_bytes,
    all_reduce_bytes,
    reduce_scatter_bytes,
)
from ensue.errors import RunError

TIMEOUT_SECONDS = 300.0
MAX_TAG = 1 << 16
SHORT_FLOATS = (torch.float16, torch.bfloat16)  # sums of these are made in float32

_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


def _function(name: str, old_name: str) -> Callable[..., Any]:
    """Return a function of torch.distributed that had another name before torch 2.13."""
    return getattr(dist, name, None) or getattr(dist, old_name)


_all_gather = _function("all_gather_single", "all_gather_into_tensor")
_reduce_scatter = _function("reduce_scatter_single", "reduce_scatter_tensor")


class Workers:
    """This process among N: its rank, its device, and what it can do with the others.

    Collectives take tensors of one dtype and, but for `all_to_all`, one shape on all workers. A
    worker that does not come within the timeout, or has ended, is a RunError for those that wait.
    (NCCL does not let them wait: its own watchdog ends the process after the timeout.)

    Attributes:
        traffic: bytes that this process gave to collectives.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        device: torch.device,
        *,
        groups: dict[Purpose, dist.ProcessGroup] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.timeout_seconds = timeout_seconds
        self.traffic = Traffic()
        self._groups = groups or {}
        # Of each group, for each is used by one thread at a time.
        tags = {group: itertools.count() for group in self._groups.values()}
        self._tags = {purpose: tags[group] for purpose, group in self._groups.items()}

    @classmethod
    def alone(cls, device: str = "cpu") -> Workers:
        """Return the only worker."""
        return cls(0, 1, pick_device(device, local_rank=0))

    @classmethod
    def start(cls, timeout_seconds: float = TIMEOUT_SECONDS, device: str = "auto") -> Workers:
        """Join the workers that torchrun started with this one; without torchrun, be alone.

        Args:
            timeout_seconds: of each collective.
            device: "cpu", "cuda" (the GPU of the local rank), or "auto", a GPU where there is one.

        Raises:
            UsageError: the environment is not one that torchrun makes.
            ConfigError: the machine has no such device.
            RunError: some workers did not come.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls.alone(device)
        size, rank, local_rank = read_environment()
        if size == 1:
            return cls.alone(device)
        return cls._join(None, rank, size, pick_device(device, local_rank), timeout_seconds)

    @classmethod
    def join(
        cls,
        store: Store,
        rank: int,
        size: int,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Workers:
        """Join workers on CPUs that share a store, started by other means than torchrun."""
        if size == 1:
            return cls.alone()
        return cls._join(store, rank, size, torch.device("cpu"), timeout_seconds)

    @classmethod
    def _join(
        cls,
        store: Store | None,
        rank: int,
        size: int,
        device: torch.device,
        timeout_seconds: float,
    ) -> Workers:
        # With a GPU, tensors in host memory still travel by gloo.
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        timeout = timedelta(seconds=timeout_seconds)
        try:
            if store is None:
                shared, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
                store = meet(shared, rank, size, timeout_seconds)
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=timeout,
            )
            ids, dense = (dist.new_group(backend=backend, timeout=timeout) for _ in range(2))
        except RuntimeError as error:
            if dist.is_initialized():
                dist.destroy_process_group()
            raise RunError(
                f"training on {size} workers needs all of them to start within "
                f"{timeout_seconds:g} s; worker {rank} met no others or not all of them "
                f"({_first_line(error)}); start all again, and see that each machine is reachable"
            ) from error
        rest = dist.group.WORLD
        groups: dict[Purpose, Any] = dict.fromkeys(("forward", "backward", "other"), rest)
        groups |= {"ids": ids, "dense": dense}
        return cls(rank, size, device, groups=groups, timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """Leave the others; those that still wait for this worker get an error."""
        if self._groups:
            self._groups = {}
            dist.destroy_process_group()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def all_to_all(
        self,
        x: Tensor,
        send: list[int],
        receive: list[int],
        *,
        purpose: Purpose,
        wire: torch.dtype | None = None,
    ) -> Tensor:
        """Return the rows [sum(receive), ...] that all workers send to this one, in rank order.

        Args:
            x: [sum(send), ...]; rows for worker 0 first.
            send: number of rows for each worker.
            receive: number of rows from each, which must be what that worker sends.
            wire: dtype of floating-point numbers while they travel; None is that of x.

        Raises:
            ValueError: counts that do not fit x or N.
        """
        if (
            len(send) != self.size
            or len(receive) != self.size
            or x.dim() == 0
            or len(x) != sum(send)
        ):
            raise ValueError(
                f"all_to_all needs rows [sum(send), ...] and counts for {self.size} workers; "
                f"got {tuple(x.shape)}, send {send} and receive {receive}"
            )
        given = _on_wire(x, wire)
        if self.size == 1:
            return x
        return self._swap("all_to_all", given, send, receive, purpose).to(x.dtype)

    def reduce_scatter(
        self, x: Tensor, *, purpose: Purpose, wire: torch.dtype | None = None
    ) -> Tensor:
        """Return this worker's rows [b, ...] of the sum of all workers' x [N * b, ...].

        In host memory the terms are added in rank order; on a GPU, in NCCL's order. Numbers shorter
        than 32 bits, of x or on the wire, are summed in float32.

        Args:
            wire: dtype of the numbers while they travel; those of this worker are not rounded.

        Raises:
            ValueError: the number of rows is not a multiple of N.
        """
        if x.dim() == 0 or len(x) % self.size:
            raise ValueError(
                f"reduce_scatter needs x [N * b, ...] for N={self.size} workers; "
                f"got {tuple(x.shape)}"
            )
        given = _on_wire(x, wire)
        if self.size == 1:
            return x
        rows = len(x) // self.size
        if x.is_cuda and given.dtype not in SHORT_FLOATS:
            out = given.new_empty(rows, *x.shape[1:])
            with self._watch("reduce_scatter", purpose):
                _reduce_scatter(out, given, group=self._groups[purpose])
            self.traffic.add(purpose, reduce_scatter_bytes(given.nbytes, self.size))
            return out
        # gloo's own reduce-scatter sends as much as an all-reduce. This sends what a ring does.
        split = [rows] * self.size
        received = self._swap("reduce_scatter", given, split, split, purpose)
        parts = list(received.view(self.size, rows, *x.shape[1:]))
        parts[self.rank] = x[self.rank * rows : (self.rank + 1) * rows]
        total = parts[0].to(torch.float32 if x.dtype in SHORT_FLOATS else x.dtype, copy=True)
        for part in parts[1:]:
            total += part
        return total.to(x.dtype)

    def all_gather(self, x: Tensor, *, purpose: Purpose, wire: torch.dtype | None = None) -> Tensor:
        """Return the x [b, ...] of all workers, [N * b, ...] in rank order.

        Args:
            wire: dtype of the numbers while they travel. This worker's are rounded too, so that all
                workers get the same.

        Raises:
            ValueError: x is a number without a dimension of rows.
        """
        if x.dim() == 0:
            raise ValueError("all_gather needs x [b, ...]; got a tensor without dimensions")
        given = _on_wire(x, wire)
        if self.size == 1:
            return x
        out = given.new_empty(self.size * len(x), *x.shape[1:])
        with self._watch("all_gather", purpose):
            _all_gather(out, given, group=self._groups[purpose])
        self.traffic.add(purpose, all_gather_bytes(given.nbytes, self.size))
        return out.to(x.dtype)

    def all_reduce_(
        self, x: Tensor, *, purpose: Purpose, op: Literal["sum", "max", "min"] = "sum"
    ) -> Tensor:
        """Make x the sum, maximum or minimum over all workers, the same bits on each; return x.

        Raises:
            ValueError: x is not contiguous.
        """
        _check_contiguous("all_reduce_", x)
        if self.size > 1:
            with self._watch("all_reduce", purpose):
                dist.all_reduce(x, _REDUCTIONS[op], group=self._groups[purpose])
            sent = all_reduce_bytes(x.numel(), x.element_size(), self.size)
            self.traffic.add(purpose, sent)
        return x

    def broadcast_(self, x: Tensor, *, purpose: Purpose = "other") -> Tensor:
        """Make x what it is on worker 0, and return it; all but the last worker pass it on.

        Raises:
            ValueError: x is not contiguous.
        """
        _check_contiguous("broadcast_", x)
        if self.size > 1:
            with self._watch("broadcast", purpose):
                dist.broadcast(x, src=0, group=self._groups[purpose])
            self.traffic.add(purpose, x.nbytes if self.rank < self.size - 1 else 0)
        return x

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the values of all workers, in rank order, as JSON gives them back.

        So tuples become lists and all keys text, and nothing that is received can run code.

        Args:
            value: numbers, text, lists, dictionaries.
        """
        text = json.dumps(value).encode()
        lengths = self.all_gather(torch.tensor([len(text)]), purpose="other").tolist()
        padded = torch.tensor(list(text.ljust(max(lengths))), dtype=torch.uint8)
        texts = self.all_gather(padded, purpose="other").view(self.size, -1).numpy()
        return [json.loads(row.tobytes()) for row in texts]

    def barrier(self) -> None:
        """Wait until all workers are here."""
        self.all_reduce_(torch.zeros(1), purpose="other")

    def _swap(
        self, name: str, given: Tensor, send: list[int], receive: list[int], purpose: Purpose
    ) -> Tensor:
        out = given.new_empty(sum(receive), *given.shape[1:])
        with self._watch(name, purpose):
            if given.is_cuda:
                dist.all_to_all_single(out, given, receive, send, group=self._groups[purpose])
            else:
                theirs, mine = torch.split(out, receive), torch.split(given, send)
                self._swap_at_once(theirs, mine, purpose)
        row_bytes = math.prod(given.shape[1:]) * given.element_size()
        self.traffic.add(purpose, (len(given) - send[self.rank]) * row_bytes)
        return out

    def _swap_at_once(
        self, theirs: Sequence[Tensor], mine: Sequence[Tensor], purpose: Purpose
    ) -> None:
        """Fill `theirs` with what the others have for this worker, and give them `mine`.

        gloo's own all-to-all sends two large messages between two workers one after the other: that
        a receiver is ready travels behind the message that it sends itself. Here all say first that
        they are ready, and both directions of a link are used: at 100 Mbit/s it takes half as long.
        """
        group, tag = self._groups[purpose], next(self._tags[purpose]) % MAX_TAG
        theirs[self.rank].copy_(mine[self.rank])
        others = [(self.rank + distance) % self.size for distance in range(1, self.size)]
        pending = [
            dist.irecv(theirs[other], group=group, group_src=other, tag=tag)
            for other in reversed(others)
            if theirs[other].numel()
        ]
        pending += [
            dist.isend(mine[other], group=group, group_dst=other, tag=tag)
            for other in others
            if mine[other].numel()
        ]
        for message in pending:
            assert message is not None  # only a process outside of the group has none
            message.wait()

    @contextmanager
    def _watch(self, collective: str, purpose: Purpose) -> Iterator[None]:
        """Say in one sentence what has happened when a collective fails."""
        start = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            reason, waited = _first_line(error), time.monotonic() - start
            is_late = "timed out" in reason.lower() or "timeout" in reason.lower()
            raise RunError(
                f"{collective} ({purpose}) needs all {self.size} workers; worker {self.rank} "
                f"{'waited in vain' if is_late else 'lost another one'} after {waited:.1f} s of "
                f"at most {self.timeout_seconds:g} s ({reason}); find out from the logs which one "
                "stopped first and why, then start all again"
            ) from error


def _check_contiguous(name: str, x: Tensor) -> None:
    if not x.is_contiguous():
        raise ValueError(
            f"{name} needs a contiguous tensor; got {tuple(x.shape)} with strides {x.stride()}"
        )


def _on_wire(x: Tensor, wire: torch.dtype | None) -> Tensor:
    if wire is None:
        return x.contiguous()
    if not (x.is_floating_point() and wire.is_floating_point):
        raise ValueError(f"wire needs floating-point numbers; got {x.dtype} as {wire}")
    return x.to(wire).contiguous()


def _first_line(error: Exception) -> str:
    """Return what a message says, without gloo's place in its source, and its advice."""
    return re.sub(
        r"^\[\S*\] ", "", str(error).strip().split("\n")[0].split(". This is typically")[0]
    ).rstrip(".")
