"""How much of the exact answer a path index finds, and what share of the catalogue it scores.

Shapes: B queries, E their width, k answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.indexes.exact import ExactIndex
from ensue.indexes.paths import PathIndex
from ensue.indexes.vectors import ItemVectors
from ensue.runs.index_benchmark import recall


@dataclass(frozen=True)
class BeamOverlap:
    """What a beam gives, as means over queries.

    overlap: share of the k best items of the whole catalogue that are among the k answers.
    share_scored: of the catalogue.
    """

    beam: int
    overlap: float
    share_scored: float

    def to_dict(self) -> dict[str, float]:
        """Return the numbers, ready for JSON."""
        return asdict(self)


def measure_overlap(
    index: PathIndex, queries: NDArray[np.float32], *, k: int, beams: Sequence[int]
) -> list[BeamOverlap]:
    """Return the overlap at k of queries [B, E] for each beam; the index keeps its own beam."""
    k, own = min(k, index.num_items), index.beam
    exact, _ = ExactIndex(ItemVectors(index.rows, has_bias=False)).search(queries, k)
    measured = []
    try:
        for beam in beams:
            index.beam = beam
            found, _, counts = index.search_counted(queries, k)
            share = float(counts.mean() / index.num_items)
            measured.append(BeamOverlap(beam, recall(found, exact), share))
    finally:
        index.beam = own
    return measured
