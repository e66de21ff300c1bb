"""How both programs of `benchmarks.propagation` are timed; it needs torch and numpy alone."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor


def measure(
    case: str,
    step: Callable[[], tuple[Any, Any]],
    parameters: Iterable[Tensor],
    num_steps: int,
    before: int,
) -> dict[str, Any]:
    """Return the seconds of each step [n], the peak of memory, and the first output and gradient.

    Args:
        step: returns an output and a gradient, each a tensor or several, of rows one after another.
        before: bytes in use before the problem was loaded.
    """
    parameters = list(parameters)

    def run() -> Any:
        for parameter in parameters:
            parameter.grad = None
        return step()

    first = [whole(part) for part in run()]  # compiles, and is not timed
    seconds = []
    for _ in range(num_steps):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answers: dict[str, Any] = {f"{case} seconds": seconds, f"{case} bytes": peak - before}
    for name, array in zip(("output", "gradient"), first, strict=True):
        if array is not None and parameters:
            answers[f"{case} {name}"] = array
    return answers


def whole(parts: Any) -> Any:
    """Return tensors as one array; None of none."""
    tensors = [parts] if isinstance(parts, Tensor) else list(parts)
    return np.concatenate([t.detach().numpy() for t in tensors]) if tensors else None


def resident_bytes() -> int:
    """Return the bytes of memory that this process has in use."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()
