"""Compiled updates of rows in slabs: each row is read and written once, without temporaries.

The numbers are those of `row_rules.update_rows_`. A row of Slabs holds weights [D], then state [S].
Row 0, and rows whose gradient is all zero, are left alone. Shapes: N rows, grad [N, D].
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ensue.nn.slabs import fetch_ahead, slab_of

_compile: Any = numba.njit(cache=True, nogil=True)


@_compile
def _is_touched(grad):  # type: ignore[no-untyped-def]
    is_touched = False
    for d in range(len(grad)):
        is_touched |= grad[d] != 0
    return is_touched


@_compile
def _own(pointers, bits, width, rows, n, like):  # type: ignore[no-untyped-def]
    """Return row rows[n], with those ahead on their way to the cache."""
    fetch_ahead(pointers, bits, width * like.itemsize, rows, n)
    return slab_of(pointers, bits, width, rows[n], like)[rows[n] & ((1 << bits) - 1)]


@_compile
def sgd(pointers, bits, width, rows, grad, rate, decay, _eps):  # type: ignore[no-untyped-def]
    """w -= rate * (g + decay * w)."""
    for n in range(len(rows)):
        own = _own(pointers, bits, width, rows, n, grad)
        if rows[n] != 0 and _is_touched(grad[n]):
            for d in range(grad.shape[1]):
                own[d] -= rate * (grad[n, d] + decay * own[d])


@_compile
def adagrad(pointers, bits, width, rows, grad, rate, decay, eps):  # type: ignore[no-untyped-def]
    """Add the squares to the sums, one for each weight, and move along g / (sqrt(sum) + eps)."""
    dim = grad.shape[1]
    for n in range(len(rows)):
        own = _own(pointers, bits, width, rows, n, grad)
        if rows[n] != 0 and _is_touched(grad[n]):
            weight, total = own[:dim], own[dim:]
            for d in range(dim):
                g = grad[n, d] + decay * weight[d]
                total[d] += g * g
                weight[d] -= rate * g / (np.sqrt(total[d]) + eps)


@_compile
def rowwise_adagrad(pointers, bits, width, rows, grad, rate, decay, eps):  # type: ignore[no-untyped-def]
    """Add the mean square to the one sum of the row, and move along g / (sqrt(sum) + eps)."""
    dim = grad.shape[1]
    for n in range(len(rows)):
        own = _own(pointers, bits, width, rows, n, grad)
        if rows[n] != 0 and _is_touched(grad[n]):
            square = grad.dtype.type(0)
            for d in range(dim):
                g = grad[n, d] + decay * own[d]
                square += g * g
            own[dim] += square / grad.dtype.type(dim)
            step = rate / (np.sqrt(own[dim]) + eps)
            for d in range(dim):
                own[d] -= step * (grad[n, d] + decay * own[d])


@_compile
def adam(  # type: ignore[no-untyped-def]
    pointers, bits, width, rows, grad, rate, decay, eps, betas, shares, corrections
):
    """Move the moments and go along them; shares are 1 - beta, corrections 1 - beta ^ t."""
    dim = grad.shape[1]
    for n in range(len(rows)):
        own = _own(pointers, bits, width, rows, n, grad)
        if rows[n] != 0 and _is_touched(grad[n]):
            weight, mean, square = own[:dim], own[dim : 2 * dim], own[2 * dim :]
            for d in range(dim):
                g = grad[n, d] + decay * weight[d]
                mean[d] += shares[0] * (g - mean[d])
                square[d] = betas[1] * square[d] + shares[1] * g * g
                spread = np.sqrt(square[d] / corrections[1]) + eps
                weight[d] -= rate * (mean[d] / corrections[0] / spread)


@_compile
def note(pointers, bits, rows, counts, stamp, most):  # type: ignore[no-untyped-def]
    """Set column 0 of int32 rows [2] to the stamp, and add counts [N] to column 1, up to `most`."""
    like = np.empty(0, np.int32)
    for n in range(len(rows)):
        own = _own(pointers, bits, 2, rows, n, like)
        if rows[n] != 0:
            own[0] = stamp
            own[1] = min(own[1] + counts[n], most)
