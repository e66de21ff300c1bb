"""Compiled: the beam search over a tree of paths, and the scores of the items that it finds.

One thread, in a fixed order of operations; `path_tree` says what is in the arrays.
Shapes: B queries, E their width, D layers, K nodes of a layer, H hidden width, I items, k answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ensue.nn.selection import keep_best, largest_places

# Sums may be reordered to use the vector units.
_compile: Any = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


@_compile
def search_rows(queries, network, tree, rows, beam, marks, stamp, ids, scores, counts):  # type: ignore[no-untyped-def]
    """Answer queries [B, E]: the best items' ids and scores [B, k], and how many were scored [B].

    Unordered; what is left of a row keeps what was in it.

    Args:
        network, tree: the arrays of `PathNetwork` and `PathTree`.
        rows: [I, E], vectors of the items.
        marks: [I + 1] int32, all below or equal to `stamp`; an item scored for query q gets stamp +
            1 + q.
    """
    for q in range(len(queries)):
        leaves = search_leaves(queries[q], network, tree, beam)
        found, values = score_items(queries[q], tree, rows, leaves, marks, stamp + 1 + q)
        counts[q] = len(found)
        keep_best(found, values, ids[q], scores[q])


@_compile
def search_leaves(query, network, tree, beam):  # type: ignore[no-untyped-def]
    """Return the leaves, ascending, that a beam search in each layer keeps.

    Only nodes with items below them are taken; their probabilities are among all K nodes. Of equal
    ones the first is kept.
    """
    query_weight, query_bias, tables, weight, bias = network
    starts, choices, first_child, _, _ = tree
    depth, width, num_hidden = weight.shape[0], weight.shape[2], weight.shape[1]
    base, hidden = np.empty(num_hidden, np.float32), np.empty(num_hidden, np.float32)
    logits = np.empty(width, np.float32)
    nodes, log_p = np.zeros(1, np.int64), np.zeros(1, np.float32)
    path = np.zeros((1, depth), np.int64)
    for layer in range(depth):
        for h in range(num_hidden):
            base[h] = query_bias[layer, h]
        for e in range(len(query)):
            for h in range(num_hidden):
                base[h] += query[e] * query_weight[layer, e, h]
        room = min(len(nodes) * width, starts[layer + 1] - starts[layer])
        found, parents = np.empty(room, np.int64), np.empty(room, np.int64)
        joint, count = np.empty(room, np.float32), 0
        for n in range(len(nodes)):
            for h in range(num_hidden):
                hidden[h] = base[h]
            for earlier in range(layer):
                row = tables[layer * (layer - 1) // 2 + earlier, path[n, earlier]]
                for h in range(num_hidden):
                    hidden[h] += row[h]
            total = log_p[n] - layer_logits(hidden, weight[layer], bias[layer], logits)
            first, last = starts[0], starts[1]
            if layer > 0:
                first, last = first_child[nodes[n]], first_child[nodes[n] + 1]
            for child in range(first, last):
                found[count], parents[count] = child, n
                joint[count] = total + logits[choices[child]]
                count += 1
        kept = largest_places(joint[:count], beam)
        before, path = path, np.empty((len(kept), depth), np.int64)
        nodes, log_p = np.empty(len(kept), np.int64), np.empty(len(kept), np.float32)
        for n in range(len(kept)):
            nodes[n], log_p[n] = found[kept[n]], joint[kept[n]]
            for earlier in range(layer):
                path[n, earlier] = before[parents[kept[n]], earlier]
            path[n, layer] = choices[nodes[n]]
    for n in range(len(nodes)):
        nodes[n] -= starts[depth - 1]
    return nodes


@_compile
def layer_logits(hidden, weight, bias, logits):  # type: ignore[no-untyped-def]
    """Set logits [K] to bias + relu(hidden) weight, and return the log of the sum of their exp."""
    for k in range(len(logits)):
        logits[k] = bias[k]
    for h in range(len(hidden)):
        value = hidden[h]
        if value > 0:
            row = weight[h]
            for k in range(len(logits)):
                logits[k] += value * row[k]
    largest = logits[0]
    for k in range(len(logits)):
        largest = max(largest, logits[k])
    total = np.float32(0)
    for k in range(len(logits)):
        total += np.exp(logits[k] - largest)
    return largest + np.log(total)


@_compile
def score_items(query, tree, rows, leaves, marks, stamp):  # type: ignore[no-untyped-def]
    """Return the distinct items of leaves, and their scores."""
    _, _, _, first_item, leaf_items = tree
    room = 0
    for leaf in leaves:
        room += first_item[leaf + 1] - first_item[leaf]
    found, values, count = np.empty(room, np.int64), np.empty(room, np.float32), 0
    for leaf in leaves:
        for place in range(first_item[leaf], first_item[leaf + 1]):
            item = leaf_items[place]
            if marks[item] == stamp:
                continue
            marks[item] = stamp
            vector, total = rows[item - 1], np.float32(0)
            for e in range(len(query)):
                total += query[e] * vector[e]
            found[count], values[count] = item, total
            count += 1
    return found[:count], values[:count]
