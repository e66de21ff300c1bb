"""A graph thinned out for one training step: edges left out, or a few neighbors of each entity.

Neighbors are drawn as in Hamilton, Ying and Leskovec, "Inductive Representation Learning on Large
Graphs", NIPS 2017, arXiv:1706.02216, but for the whole graph at once and without replacement: of
n > m neighbors every (n / m)-th one from a random place on, each of them n / m times as heavy, so
that a sum over neighbors is right on average.
Shapes: n entities of a side, E edges.
"""

from __future__ import annotations

import torch

from ensue.nn.jagged import row_numbers
from ensue.nn.propagation import Adjacency, SparseRows


def sample_neighbors(graph: Adjacency, most: int) -> Adjacency:
    """Return the graph with at most `most` neighbors of each entity, in each direction apart.

    The draws are from the default generator of the graph's device.
    """
    to_a, to_b = _sample_rows(graph.to_a, most), _sample_rows(graph.to_b, most)
    return Adjacency(to_a, to_b, from_a=_transpose(to_b), from_b=_transpose(to_a))


def _sample_rows(matrix: SparseRows, most: int) -> SparseRows:
    """Return at most `most` values of each row, weighted so that sums keep their expectation."""
    lengths = matrix.offsets.diff().long()
    kept = lengths.clamp(max=most)
    offsets = torch.cat([kept.new_zeros(1), kept.cumsum(0)])
    rows = row_numbers(offsets)
    step = lengths / kept.clamp(min=1)  # 1 where all are kept
    first = torch.rand(len(lengths), dtype=step.dtype, device=step.device)
    first = torch.where(lengths > most, first, 0.0)
    place = torch.arange(len(rows), device=rows.device) - offsets[rows]
    inside = ((place + first[rows]) * step[rows]).long()
    chosen = matrix.offsets[rows] + torch.minimum(inside, lengths[rows] - 1)
    return SparseRows(
        offsets.int(),
        matrix.columns[chosen],
        matrix.values[chosen] * step[rows],
        matrix.edges[chosen],
        matrix.num_columns,
    )


def _transpose(matrix: SparseRows) -> SparseRows:
    """Return the transpose, with the same numbers of edges."""
    columns = matrix.columns.long()
    order = torch.argsort(columns, stable=True)
    counts = torch.bincount(columns, minlength=matrix.num_columns)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    rows = row_numbers(matrix.offsets).int()
    return SparseRows(
        offsets, rows[order], matrix.values[order], matrix.edges[order], matrix.num_rows
    )
