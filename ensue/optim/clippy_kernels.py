"""Adagrad with Clippy in memory: two passes over a tensor, on as many threads as torch uses.

The first pass reads gradient, sum and weight for the factor, the second writes sum and weight: 32
bytes for each parameter, where Adagrad alone has 20 and tensor operations some hundred. Each thread
takes a stretch of the tensor; the largest of their numbers does not depend on their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ensue.nn.stretches import in_stretches

_compile: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
BLOCK = 2048  # parameters looked at together; their numbers stay in cache
TINY = np.float32(2e-38)  # keeps a step of zero under a bound of zero from being NaN
NOT_FINITE = -1.0  # in the place of a factor: below all, so that no piece takes such a step
STRETCH = 1 << 20  # parameters of a thread, at least


def can_run(weight: Tensor, grad: Tensor, group: dict[str, Any]) -> bool:
    """Return whether the kernels do this step: Adagrad's, by Clippy or free, float32, in memory."""
    tensors = (weight, grad)
    return (
        group["direction"] != "adam"
        and group["rule"] in ("clippy", "none")
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and all(t.is_contiguous() for t in tensors)
    )


def update(
    weight: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    group: dict[str, Any],
    least: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Take the step of `ensue.optim.clippy`, or count a gradient that is not finite as skipped.

    Args:
        least: returns the least of a factor [] over the pieces of the tensor; None has all of it.
    """
    arrays = [t.detach().view(-1).numpy() for t in (grad, state["sum"], weight)]
    numbers = [np.float32(group[name]) for name in ("lr", "eps", "weight_decay")]
    is_standard = group["direction"] == "adagrad"
    bound = (np.float32(group["relative"]), np.float32(group["absolute"]))
    # Numbers without a sign are ordered as their bits are, and NaN is above infinity.
    excess = in_stretches(_square_excess, arrays, (*numbers, is_standard, *bound), least=STRETCH)
    square = max(excess, key=_as_bits)
    factor = 1.0 / max(1.0, math.sqrt(square)) if group["rule"] == "clippy" else 1.0
    if not np.isfinite(square) and not bool(grad.isfinite().all()):
        factor = NOT_FINITE
    if least is not None:
        factor = float(least(torch.tensor(factor, dtype=torch.float64)))
    if factor == NOT_FINITE:
        state["skipped"] += 1
        return
    numbers[0] *= np.float32(factor)
    in_stretches(_apply, arrays, (*numbers, is_standard), least=STRETCH)
    state["factor"].fill_(factor)
    state["factor_sum"] += factor
    state["step"] += 1
    state["taken"] += 1


def _as_bits(value: np.float32) -> int:
    return int(np.float32(value).view(np.int32))


@_compile
def _square_excess(  # type: ignore[no-untyped-def]
    grad, total, weight, rate, eps, decay, is_standard, relative, absolute
):
    """Return the square of the largest |step| over its bound; NaN for a gradient or sum of NaN."""
    block = np.zeros(BLOCK, dtype=np.float32)
    worst = np.zeros(1, dtype=np.int32)
    for first in range(0, len(grad), BLOCK):
        last = min(first + BLOCK, len(grad))
        part = grad[first:last], total[first:last], weight[first:last]
        _fill(*part, rate, eps, decay, is_standard, relative, absolute, block)
        worst[0] = _largest(block[: last - first].view(np.int32), worst[0])
    return worst.view(np.float32)[0]


@_compile
def _fill(  # type: ignore[no-untyped-def]
    grad, total, weight, rate, eps, decay, is_standard, relative, absolute, out
):
    for i in range(len(grad)):
        w = weight[i]
        g = grad[i] + decay * w
        square = total[i] + g * g if is_standard else total[i]
        bound = relative * abs(w) + absolute
        step = rate * g
        # Without a root, which would take as long as all the rest; NaN must have no sign either.
        out[i] = abs(step * step / ((square + eps) * bound * bound + TINY))


@_compile
def _largest(values, largest):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        largest = max(largest, values[i])
    return largest


@_compile
def _apply(  # type: ignore[no-untyped-def]
    grad, total, weight, rate, eps, decay, is_standard
):
    """Add the squares, and subtract rate times the direction; the rate has the factor in it."""
    for i in range(len(grad)):
        g = grad[i] + decay * weight[i]
        before = total[i]
        after = before + g * g
        total[i] = after
        used = after if is_standard else before
        weight[i] -= rate * g / np.sqrt(used + eps)
