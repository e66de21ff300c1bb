"""Loops over float32 arrays in memory, compiled: one pass where tensor operations make several.

On a CPU the tables, gradients and optimizer state of a model fill the cache, so each temporary
costs a trip to memory. These kernels read their inputs once and make no temporaries. They run on
one thread and add in a fixed order: results do not depend on the number of threads. Every kernel
has a counterpart in tensor operations, used on a GPU and for other types; tests hold them equal.
Shapes: B batch, L window length, D width, H filters per height, K vertical filters, P positions of
all heights L (L + 1) / 2, V table rows, C candidates, S looked-up rows.
"""

from __future__ import annotations

from typing import Any

import numba
import torch
from torch import Tensor

_compile: Any = numba.njit(cache=True, fastmath=True, nogil=True)


def can_run(*tensors: Tensor) -> bool:
    """Return whether the kernels take these tensors: float32, in memory, no autocast."""
    return not torch.is_autocast_enabled("cpu") and all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors
    )


def arrays(*tensors: Tensor) -> list[Any]:
    """Return the tensors as NumPy arrays over the same memory, contiguous."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


@_compile
def add_rows(ids, rows, table):  # type: ignore[no-untyped-def]
    """table[ids[s]] += rows[s] for ids [S], rows [S, D], table [V, D]."""
    for s in range(len(ids)):
        row = table[ids[s]]
        for d in range(row.shape[0]):
            row[d] += rows[s, d]


@_compile
def dot_rows(queries, table, ids, out):  # type: ignore[no-untyped-def]
    """out[b, c] = queries[b] . table[ids[b, c]] for queries [B, D], table [V, D], ids [B, C]."""
    for b in range(len(ids)):
        for c in range(ids.shape[1]):
            row = table[ids[b, c]]
            total = queries.dtype.type(0)
            for d in range(row.shape[0]):
                total += queries[b, d] * row[d]
            out[b, c] = total


@_compile
def dot_rows_backward(grad, queries, table, ids, grad_queries, grad_table):  # type: ignore[no-untyped-def]
    """Set grad_queries [B, D] and add to grad_table [V, D], given grad [B, C]."""
    for b in range(len(ids)):
        query, own = queries[b], grad_queries[b]
        own[:] = 0
        for c in range(ids.shape[1]):
            weight, row, row_grad = grad[b, c], table[ids[b, c]], grad_table[ids[b, c]]
            for d in range(row.shape[0]):
                own[d] += weight * row[d]
                row_grad[d] += weight * query[d]


@_compile
def keep(values, noise, threshold, scale, out):  # type: ignore[no-untyped-def]
    """out = values * scale where noise >= threshold, 0 elsewhere; all flat, noise uint8."""
    for i in range(len(values)):
        out[i] = values[i] * scale if noise[i] >= threshold else 0


@_compile
def place_filters(flat, window, dim, num_filters, block):  # type: ignore[no-untyped-def]
    """Copy filters [sum_h H * h * D] to every position they can take in block [L * D, P * H]."""
    start, column = 0, 0
    for height in range(1, window + 1):
        for position in range(window - height + 1):
            for i in range(height * dim):
                for k in range(num_filters):
                    block[position * dim + i, column + k] = flat[start + k * height * dim + i]
            column += num_filters
        start += num_filters * height * dim


@_compile
def place_filters_backward(grad, window, dim, num_filters, flat):  # type: ignore[no-untyped-def]
    """Add up the gradient of a filter over its positions: the transpose of `place_filters`."""
    start, column = 0, 0
    for height in range(1, window + 1):
        for position in range(window - height + 1):
            for i in range(height * dim):
                for k in range(num_filters):
                    flat[start + k * height * dim + i] += grad[position * dim + i, column + k]
            column += num_filters
        start += num_filters * height * dim


@_compile
def pool(products, bias, window, num_filters, out, argmax):  # type: ignore[no-untyped-def]
    """Take the maximum of each filter over its positions, and add its bias.

    products [B, P * H]; bias [L * H]; out [B, L * H]; argmax [B, L * H] the columns of products.
    """
    for b in range(len(products)):
        row, best, place = products[b], out[b], argmax[b]
        column = 0
        for height in range(window):
            first = height * num_filters
            for k in range(num_filters):
                best[first + k] = row[column + k]
                place[first + k] = column + k
            column += num_filters
            for _ in range(window - height - 1):
                for k in range(num_filters):
                    if row[column + k] > best[first + k]:
                        best[first + k] = row[column + k]
                        place[first + k] = column + k
                column += num_filters
        for j in range(len(best)):
            best[j] += bias[j]


@_compile
def pool_backward(grad, argmax, grad_products, grad_bias):  # type: ignore[no-untyped-def]
    """Send grad [B, L * H] to the positions that won, and add it up for the bias."""
    for b in range(len(grad)):
        grad_products[b, :] = 0
        for j in range(grad.shape[1]):
            grad_products[b, argmax[b, j]] = grad[b, j]
            grad_bias[j] += grad[b, j]


@_compile
def mix(vectors, weight, bias, out):  # type: ignore[no-untyped-def]
    """out[b, k] = bias[k] + sum_l weight[k, l] * vectors[b, l] for vectors [B, L, D]."""
    for b in range(len(vectors)):
        for k in range(weight.shape[0]):
            total = out[b, k]
            total[:] = bias[k]
            for j in range(weight.shape[1]):
                scale, vector = weight[k, j], vectors[b, j]
                for d in range(vector.shape[0]):
                    total[d] += scale * vector[d]


@_compile
def mix_backward(grad, vectors, weight, grad_vectors, grad_weight, grad_bias):  # type: ignore[no-untyped-def]
    """Add to all gradients of `mix`, given grad [B, K, D]."""
    for b in range(len(vectors)):
        for k in range(weight.shape[0]):
            own = grad[b, k]
            total = vectors.dtype.type(0)
            for d in range(own.shape[0]):
                total += own[d]
            grad_bias[k] += total
            for j in range(weight.shape[1]):
                scale, vector, vector_grad = weight[k, j], vectors[b, j], grad_vectors[b, j]
                total = vectors.dtype.type(0)
                for d in range(own.shape[0]):
                    total += own[d] * vector[d]
                    vector_grad[d] += scale * own[d]
                grad_weight[k, j] += total
