"""Bytes that a worker of N sends in a step, by the formulas of equivalent substitution.

With r = (N - 1) / N, b rows a worker, B = N b, F columns, n values a row, k width of the vectors, c
of a row of the table, e = 4 bytes of a number, U distinct values in a worker's rows, P numbers of
the tower, of which the first layer has F k h on vectors and h outputs:

- parameter server: 2 U c e r + 16 U r: ids of 8 bytes to pull and to push, rows and gradients; a
  worker sends what it pushes, and rows as a server, which is as much as it pulls. 2 P e r for the
  tower, which is summed by an all-reduce. A server that remembers what was pulled spares 8 U r.
- table-wise and row-wise: 8 b n r for the ids, 4 b F r for their lengths; pooled vectors there and
  gradients back, 2 b F d e r and 2 B F d e r, of d numbers a column; 2 P e r. Row-wise every
  worker has a part of every column, and the lengths of all go to each: 4 b F (N - 1).
- equivalent substitution: the same ids and lengths, 2 B s e r for the sums of s numbers a row
  there and back: 1 for LR, k + 1 for FM, k + 1 + h for DeepFM, h for a tower alone; 2 (P - F k h) e
  r: the first layer's part on the vectors is not summed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from benchmarks.network.workloads import Workload

Scheme = Literal["parameter_server", "table_wise", "row_wise", "des"]
ELEMENT = 4


def sent_bytes(
    scheme: Scheme,
    workload: Workload,
    workers: int,
    *,
    entries: float,
    distinct: float,
    width: int | None = None,
) -> dict[str, float]:
    """Return bytes by purpose: ids, sparse (rows, vectors or sums) and dense (the tower).

    Args:
        entries: values in a worker's rows (b n). distinct: of them (U).
        width: numbers of a pooled vector (d); those of the vectors (k), if it is not given.

    >>> from benchmarks.network.workloads import WORKLOADS
    >>> fm = WORKLOADS["fm-many"]
    >>> sent_bytes("des", fm, 4, entries=512_000, distinct=150_000)["sparse"]
    110592.0
    >>> sum(sent_bytes("parameter_server", fm, 4, entries=512_000, distinct=150_000).values()) / .75
    13200008.0
    """
    share = (workers - 1) / workers
    rows, columns = workload.batch, len(workload.sizes)
    total = rows * workers
    first = columns * workload.dim * (workload.hidden[0] if workload.hidden else 0)
    dense = tower_numbers(workload)
    lengths = 4 * rows * columns * (workers if scheme == "row_wise" else 1)
    ids = 8 * entries + lengths
    if scheme == "parameter_server":
        ids = 16 * distinct
        sparse = 2 * distinct * workload.width * ELEMENT
    elif scheme == "des":
        sparse = 2 * total * substituted_width(workload) * ELEMENT
        dense -= first
    else:
        pooled = 2 * columns * (width or max(workload.dim, 1)) * ELEMENT
        sparse = pooled * (total if scheme == "row_wise" else rows)
    return {"ids": ids * share, "sparse": sparse * share, "dense": 2 * dense * ELEMENT * share}


def tower_numbers(workload: Workload) -> int:
    """Return the numbers of the tower and the bias (P)."""
    if not workload.hidden:
        return 1
    first = len(workload.sizes) * workload.dim + workload.numbers
    widths = (first, *workload.hidden, 1)
    return 1 + sum(a * b + b for a, b in pairwise(widths))


def substituted_width(workload: Workload) -> int:
    """Return the numbers a row that equivalent substitution sums (s)."""
    of_first_layer = workload.hidden[0] if workload.hidden else 0
    return of_first_layer + (0 if workload.model == "dnn" else workload.dim + 1)
