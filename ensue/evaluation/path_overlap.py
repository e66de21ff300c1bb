"""How much of the exact answer a path index finds, and what share of the catalogue it scores.

Shapes: Q queries, E their width, I items, k answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.indexes.paths import PathIndex

BLOCK_VALUES = 1 << 24  # scores held at a time


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
    """Return the overlap at k for each beam; the index keeps its own beam."""
    k, own = min(k, index.num_items), index.beam
    exact = exact_items(index, queries, k)
    measured = []
    try:
        for beam in beams:
            index.beam = beam
            found, _, counts = index.search_counted(queries, k)
            overlap = float(
                np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
            )
            measured.append(BeamOverlap(beam, overlap, float(counts.mean() / index.num_items)))
    finally:
        index.beam = own
    return measured


def exact_items(index: PathIndex, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the k best items [Q, k] of the whole catalogue, in no order."""
    vectors, biases = torch.from_numpy(index.vectors[1:]), torch.from_numpy(index.biases[1:])
    blocks = torch.from_numpy(queries).split(max(1, BLOCK_VALUES // index.num_items))
    best = [torch.addmm(biases, block, vectors.T).topk(k, dim=1).indices + 1 for block in blocks]
    return torch.cat(best).numpy() if best else np.zeros((0, k), dtype=np.int64)
