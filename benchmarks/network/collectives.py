"""gloo's all-to-all and reduce-scatter, at the speed of the network.

gloo exchanges two large messages (2 MB and more) between two processes one after the other: the
note that a receiver is ready travels behind the message that it sends itself on the same
connection. Here every process says that it is ready to receive before it sends anything, and both
directions are used: 10 MB each way at 100 Mbit/s take 0.85 s in place of 1.66. gloo's
reduce-scatter sends twice the bytes of a ring; here it is an all-to-all and a sum in the order of
the ranks. The functions stand in for those of `torch.distributed` of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TAGS = 1 << 16
_numbers = count()


class _Work(dist.Work):
    """The handle of a collective: `wait` waits for its messages and ends it."""

    def __init__(self, messages: list[Any], finish: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._messages, self._finish = messages, finish

    def wait(self, timeout: Any = None) -> bool:
        for message in self._messages:
            message.wait()
        self._messages = []
        if self._finish:
            self._finish()
            self._finish = None
        return True


def all_to_all_single(
    output: Tensor,
    input: Tensor,
    output_split_sizes: list[int] | None = None,
    input_split_sizes: list[int] | None = None,
    group: Any = None,
    async_op: bool = False,
) -> _Work | None:
    """Send the rows of `input` to the processes in turn, and receive theirs in `output`."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    even = [len(input) // size] * size
    mine = torch.split(input, input_split_sizes or even)
    theirs = torch.split(output, output_split_sizes or even)
    theirs[rank].copy_(mine[rank])
    others = [(rank + distance) % size for distance in range(1, size)]
    tag = next(_numbers) % TAGS  # two exchanges may be under way at once
    messages = [
        dist.irecv(theirs[other], group=group, group_src=other, tag=tag)
        for other in reversed(others)
        if theirs[other].numel()
    ]
    messages += [
        dist.isend(mine[other], group=group, group_dst=other, tag=tag)
        for other in others
        if mine[other].numel()
    ]
    work = _Work(messages)
    return _started(work, async_op)


def reduce_scatter_tensor(
    output: Tensor, input: Tensor, group: Any = None, async_op: bool = False
) -> _Work | None:
    """Set `output` to the sum of this process's part of the `input` of all."""
    received = torch.empty_like(input)
    exchange = all_to_all_single(received, input.contiguous(), group=group, async_op=True)
    parts = received.view(dist.get_world_size(group), *output.shape)
    work = _Work([exchange], lambda: torch.sum(parts, dim=0, out=output))
    return _started(work, async_op)


def _started(work: _Work, async_op: bool) -> _Work | None:
    if async_op:
        return work
    work.wait()
    return None
