"""Compiled loops on as many threads as torch uses, each over a stretch of the same arrays."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch


def in_stretches(
    kernel: Any, arrays: Sequence[Any], others: tuple[Any, ...], *, least: int
) -> list[Any]:
    """Return what kernel(*parts of the arrays, *others) returns for each stretch of the arrays.

    Args:
        kernel: compiled with nogil.
        arrays: of one length.
        least: elements of a stretch, at least.
    """
    size = len(arrays[0])
    count = max(1, min(torch.get_num_threads(), size // least))
    edges = [size * i // count for i in range(count + 1)]
    return run_stretches(kernel, arrays, others, edges)


def run_stretches(
    kernel: Any, arrays: Sequence[Any], others: tuple[Any, ...], edges: Sequence[int]
) -> list[Any]:
    """Return what `in_stretches` does, of stretches that begin and end at the given edges."""
    parts = [[a[i:j] for a in arrays] for i, j in pairwise(edges)]
    if len(parts) == 1:
        return [kernel(*parts[0], *others)]
    threads = _threads(min(torch.get_num_threads(), len(parts)))
    return list(threads.map(lambda part: kernel(*part, *others), parts))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="stretches")
