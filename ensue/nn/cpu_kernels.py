"""Loops over float32 arrays in memory, compiled: one pass where tensor operations make several.

On a CPU the tables, gradients and optimizer state of a model fill the cache, so each temporary
costs a trip to memory. These kernels read their inputs once and make no temporaries. They run on
one thread and add in a fixed order: results do not depend on the number of threads. Every kernel
has a counterpart in tensor operations, used on a GPU and for other types; tests hold them equal.
Shapes: B batch, L window length, D width, H filters per height, K vertical filters, P positions of
all heights L (L + 1) / 2, V table rows, C candidates, S looked-up rows, F fields.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

# Sums may be reordered to use the vector units; NaN and infinity keep their meaning, so that a
# training that diverges is seen to.
_REORDER = {"reassoc", "contract", "nsz", "arcp"}
compiled: Any = numba.njit(cache=True, fastmath=_REORDER, nogil=True)


def can_run(*tensors: Tensor) -> bool:
    """Return whether the kernels take these tensors: float32, in memory, no autocast.

    Only where gradients are taken: a single answer should not wait for compiled code to load.
    """
    if torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return False
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def arrays(*tensors: Tensor) -> list[Any]:
    """Return the tensors as NumPy arrays over the same memory, contiguous."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


@compiled
def add_rows(ids, rows, table):  # type: ignore[no-untyped-def]
    """table[ids[s]] += rows[s] for ids [S], rows [S, D], table [V, D]."""
    for s in range(len(ids)):
        row = table[ids[s]]
        for d in range(row.shape[0]):
            row[d] += rows[s, d]


@compiled
def dot_rows(queries, table, ids, out):  # type: ignore[no-untyped-def]
    """out[b, c] = queries[b] . table[ids[b, c]] for queries [B, D], table [V, D], ids [B, C]."""
    for b in range(len(ids)):
        for c in range(ids.shape[1]):
            row = table[ids[b, c]]
            total = queries.dtype.type(0)
            for d in range(row.shape[0]):
                total += queries[b, d] * row[d]
            out[b, c] = total


@compiled
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


@compiled
def keep(values, noise, threshold, scale, out):  # type: ignore[no-untyped-def]
    """out = values * scale where noise >= threshold, 0 elsewhere; all flat, noise uint8."""
    for i in range(len(values)):
        out[i] = values[i] * scale if noise[i] >= threshold else 0


@compiled
def place_filters(flat, window, dim, num_filters, placed):  # type: ignore[no-untyped-def]
    """Copy filters [sum_h H * h * D] to the first h * D rows of their columns [L * D, L * H]."""
    start = 0
    for height in range(1, window + 1):
        for i in range(height * dim):
            for k in range(num_filters):
                column = (height - 1) * num_filters + k
                placed[i, column] = flat[start + k * height * dim + i]
        start += num_filters * height * dim


@compiled
def place_filters_backward(grad, window, dim, num_filters, flat):  # type: ignore[no-untyped-def]
    """Set flat to the gradient of the filters: the transpose of `place_filters`."""
    start = 0
    for height in range(1, window + 1):
        for i in range(height * dim):
            for k in range(num_filters):
                column = (height - 1) * num_filters + k
                flat[start + k * height * dim + i] = grad[i, column]
        start += num_filters * height * dim


@compiled
def activate(value, activation):  # type: ignore[no-untyped-def]
    """Return the value of an activation of `nn.activations`, by its position there."""
    if activation == 1:
        return np.float32(1) / (np.float32(1) + np.exp(-value))
    if activation == 2:
        return np.tanh(value)
    if activation == 3:
        return max(value, np.float32(0))
    return value


@compiled
def slope(value, activation):  # type: ignore[no-untyped-def]
    """Return the derivative of an activation where it has the value `value`."""
    if activation == 1:
        return value * (np.float32(1) - value)
    if activation == 2:
        return np.float32(1) - value * value
    if activation == 3:
        return np.float32(value > 0)
    return np.float32(1)


@compiled
def window_features(  # type: ignore[no-untyped-def]
    vectors, products, mix_weight, mix_bias, bias, noise, threshold, scale, activation, out, argmax
):
    """Fill out [B, K * D + L * H]: mixtures of the vectors, then activated maxima of the products.

    out[b, k * D + d] = mix_bias[k] + sum_l mix_weight[k, l] * vectors[b, l, d]; vectors [B, L, D].
    The rest takes the maximum of each filter over its positions in products [B, P * H], the first
    one in a tie, adds bias [L * H] and activates; argmax [B, L * H] keeps the winning columns.
    Products are ordered by position: L * H columns of the first, (L - 1) * H of the second, where
    the largest height has no place, and so on.
    Features whose noise, like out or empty, is below the threshold are dropped, the rest scaled.
    """
    window, dim = vectors.shape[1], vectors.shape[2]
    num_mixed = mix_weight.shape[0] * dim
    num_pooled = len(bias)
    best = np.empty(num_pooled, dtype=out.dtype)
    place = np.empty(num_pooled, dtype=argmax.dtype)
    for b in range(len(vectors)):
        for k in range(mix_weight.shape[0]):
            for d in range(dim):
                out[b, k * dim + d] = mix_bias[k]
            for j in range(window):
                weight = mix_weight[k, j]
                for d in range(dim):
                    out[b, k * dim + d] += weight * vectors[b, j, d]
        for j in range(num_pooled):
            best[j], place[j] = products[b, j], j
        column = num_pooled
        for position in range(1, window):
            width = num_pooled // window * (window - position)
            for j in range(width):
                value = products[b, column + j]
                place[j] = np.int32(column + j) if value > best[j] else place[j]
                best[j] = max(value, best[j])
            column += width
        for j in range(num_pooled):
            out[b, num_mixed + j] = activate(best[j] + bias[j], activation)
            argmax[b, j] = place[j]
        if threshold > 0:
            for j in range(out.shape[1]):
                out[b, j] = out[b, j] * scale if noise[b, j] >= threshold else 0


@compiled
def window_features_backward(  # type: ignore[no-untyped-def]
    grad,
    out,
    vectors,
    mix_weight,
    noise,
    threshold,
    scale,
    activation,
    argmax,
    to_vectors,
    to_products,
    to_mix,
    to_bias,
):
    """Set the gradients of the inputs of `window_features`, given grad [B, K * D + L * H].

    to_mix [K, L + 1] is of the weights and, in the last column, of mix_bias; to_bias [L * H]. These
    two must be zero; to_vectors is of the mixtures alone.
    """
    window, dim = vectors.shape[1], vectors.shape[2]
    num_mixed = mix_weight.shape[0] * dim
    own_row = np.empty(grad.shape[1], dtype=grad.dtype)
    back = grad.dtype.type(1) / scale
    for b in range(len(vectors)):
        if threshold > 0:
            for j in range(len(own_row)):
                own_row[j] = grad[b, j] * scale if noise[b, j] >= threshold else 0
        else:
            for j in range(len(own_row)):
                own_row[j] = grad[b, j]
        for j in range(window):
            for d in range(dim):
                to_vectors[b, j, d] = 0
        for j in range(to_products.shape[1]):
            to_products[b, j] = 0
        for k in range(mix_weight.shape[0]):
            own = own_row[k * dim : (k + 1) * dim]
            total = grad.dtype.type(0)
            for d in range(dim):
                total += own[d]
            to_mix[k, window] += total
            for j in range(window):
                weight, vector, vector_grad = mix_weight[k, j], vectors[b, j], to_vectors[b, j]
                total = grad.dtype.type(0)
                for d in range(dim):
                    total += own[d] * vector[d]
                    vector_grad[d] += weight * own[d]
                to_mix[k, j] += total
        for j in range(len(to_bias)):
            value = own_row[num_mixed + j] * slope(out[b, num_mixed + j] * back, activation)
            to_products[b, argmax[b, j]] += value
            to_bias[j] += value


@compiled
def candidate_bce(  # type: ignore[no-untyped-def]
    queries, table, bias, ids, num_targets, weights, to_logits, to_queries
):
    """Return the weighted binary cross-entropy of candidates ids [B, C], targets first; 0 is none.

    Fills to_logits [B, C] and to_queries [B, D], its gradients; weights are [B, C]. A bias of no
    elements is none.
    """
    loss = 0.0
    num_candidates = ids.shape[1]
    for b in range(len(ids)):
        query, own = queries[b], to_queries[b]
        own[:] = 0
        # One after the other for all candidates: a logit and what follows from it wait for nothing.
        for c in range(num_candidates):
            to_logits[b, c] = 0
            if ids[b, c] == 0 or weights[b, c] == 0:
                continue
            row = table[ids[b, c]]
            logit = bias[ids[b, c]] if len(bias) else queries.dtype.type(0)
            for d in range(row.shape[0]):
                logit += query[d] * row[d]
            to_logits[b, c] = logit
        for c in range(num_candidates):
            weight = weights[b, c] if ids[b, c] != 0 else weights.dtype.type(0)
            is_target, logit = c < num_targets, to_logits[b, c]
            signed = -logit if is_target else logit  # the loss is log(1 + exp(signed))
            small = np.exp(-abs(signed))
            loss += weight * (max(signed, np.float32(0)) + np.log1p(small))
            share = weight * (np.float32(1) if signed >= 0 else small) / (np.float32(1) + small)
            to_logits[b, c] = -share if is_target else share
        for c in range(num_candidates):
            share = to_logits[b, c]
            if share != 0:
                row = table[ids[b, c]]
                for d in range(row.shape[0]):
                    own[d] += share * row[d]
    return loss


@compiled
def candidate_bce_backward(  # type: ignore[no-untyped-def]
    scale, to_logits, queries, ids, grad_table, grad_bias
):
    """Add scale times the gradients of the table [V, D] and the bias [V], or of no elements."""
    for b in range(len(ids)):
        query = queries[b]
        for c in range(ids.shape[1]):
            weight = scale * to_logits[b, c]
            if weight == 0:
                continue
            row_grad = grad_table[ids[b, c]]
            if len(grad_bias):
                grad_bias[ids[b, c]] += weight
            for d in range(query.shape[0]):
                row_grad[d] += weight * query[d]


@compiled
def bag_sum(ids, offsets, weights, table, out):  # type: ignore[no-untyped-def]
    """out[b] = sum of weights[s] * table[ids[s]] over offsets[b] <= s < offsets[b + 1]."""
    for b in range(len(out)):
        own = out[b]
        own[:] = 0
        for s in range(offsets[b], offsets[b + 1]):
            row, weight = table[ids[s]], weights[s]
            for d in range(row.shape[0]):
                own[d] += weight * row[d]


@compiled
def bag_sum_backward(grad, ids, offsets, weights, grad_table):  # type: ignore[no-untyped-def]
    """Add to grad_table [V, D] what grad [B, D] of the sums of the bags gives."""
    for b in range(len(grad)):
        own = grad[b]
        for s in range(offsets[b], offsets[b + 1]):
            row, weight = grad_table[ids[s]], weights[s]
            for d in range(row.shape[0]):
                row[d] += weight * own[d]


@compiled
def adagrad_rows(table, grad, total, rate, eps):  # type: ignore[no-untyped-def]
    """Take a step of Adagrad in the rows of table [V, D] whose gradient is not zero."""
    for v in range(len(table)):
        own, row, sums = grad[v], table[v], total[v]
        is_touched = False
        for d in range(own.shape[0]):
            is_touched |= own[d] != 0
        if is_touched:
            for d in range(own.shape[0]):
                sums[d] += own[d] * own[d]
                row[d] -= rate * own[d] / (np.sqrt(sums[d]) + eps)


@compiled
def field_sums(vectors, sums, squares):  # type: ignore[no-untyped-def]
    """Fill sums and squares [B, D]: over the fields of vectors [B, F, D], and of their squares."""
    for b in range(len(vectors)):
        own, own_squares = sums[b], squares[b]
        own[:] = 0
        own_squares[:] = 0
        for f in range(vectors.shape[1]):
            vector = vectors[b, f]
            for d in range(vector.shape[0]):
                own[d] += vector[d]
                own_squares[d] += vector[d] * vector[d]


@compiled
def field_sums_backward(to_sums, to_squares, vectors, grad):  # type: ignore[no-untyped-def]
    """Set grad [B, F, D] to the gradient of the vectors of `field_sums`."""
    two = vectors.dtype.type(2)
    for b in range(len(vectors)):
        own, own_squares = to_sums[b], to_squares[b]
        for f in range(vectors.shape[1]):
            vector, out = vectors[b, f], grad[b, f]
            for d in range(vector.shape[0]):
                out[d] = own[d] + two * own_squares[d] * vector[d]
