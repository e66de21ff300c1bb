"""Which new ids are worth a row: those seen often enough, or drawn.

How often an id without a row was seen is kept in a count-min sketch with conservative update
(Cormode and Muthukrishnan, J. Algorithms 2005; Estan and Varghese, SIGCOMM 2002): memory of one
size for any number of ids, counts that are never too small. The ids of a call are counted all at
once, so their order does not matter. Old counts fade: they are halved now and then, as in TinyLFU
(Einziger et al., ACM ToS 2017, arXiv:1512.00727).
Shapes: N distinct ids.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ensue.config import Config
from ensue.nn.hashing import GOLDEN, mix_number, mix_tensor, shift_right, signed, uniform

DEPTH = 4  # counters of an id
LARGEST = 255  # of a counter


class Admission(Config):
    """When an id gets a row.

    min_count: sights needed, this one included.
    probability: with which each sight of an id with so many gives it a row; the draw depends on
        the seed, the id and the number of the step alone.
    sketch_cells: bytes of the counters of ids without rows (with min_count > 1), rounded down to a
        power of two. Counts are hardly ever too large with four for each rare id.
    """

    min_count: int = Field(default=1, ge=1, le=LARGEST)
    probability: float = Field(default=1.0, gt=0, le=1)
    sketch_cells: int = Field(default=1 << 22, ge=DEPTH)

    @property
    def admits_all(self) -> bool:
        """Whether every id gets a row at once."""
        return self.min_count == 1 and self.probability == 1.0


class CountSketch:
    """Counts of ids in `cells` bytes; each at least the true one, or 255."""

    def __init__(self, cells: int, *, seed: int, device: torch.device | str = "cpu") -> None:
        self.log = (cells // DEPTH).bit_length() - 1
        self.seed = seed
        self.counts = torch.zeros(DEPTH << self.log, dtype=torch.uint8, device=device)

    def add(self, ids: Tensor, counts: Tensor) -> Tensor:
        """Add counts [N] to those of distinct ids [N], and return what they are now, int64."""
        cells = torch.stack([self._cells(ids, row) for row in range(DEPTH)])
        after = (self.counts[cells].amin(0).long() + counts).clamp(max=LARGEST)
        # No counter needs more than the least of an id's counters says.
        spread = after.to(torch.uint8).expand(DEPTH, -1).reshape(-1)
        self.counts.scatter_reduce_(0, cells.view(-1), spread, "amax")
        return after

    def halve(self) -> None:
        """Let old counts fade."""
        self.counts >>= 1

    def _cells(self, ids: Tensor, row: int) -> Tensor:
        start = mix_number(self.seed + signed((row + 2) * GOLDEN % 2**64))
        return shift_right(mix_tensor(ids ^ start), 64 - self.log) + (row << self.log)


def is_drawn(ids: Tensor, counts: Tensor, *, probability: float, seed: int, step: int) -> Tensor:
    """Return whether at least one of counts [N] draws gives id [N] a row."""
    chance = 1 - (1 - probability) ** counts.double()
    return uniform(ids, mix_number(seed), step) < chance  # not the numbers of the start
