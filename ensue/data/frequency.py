"""How often items are drawn: exactly, from counts, or estimated while they stream by.

Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
2019, section 4 and Algorithm 2: each item keeps the step at which it was last seen and the moving
mean of the gaps between its steps; one over that gap is how often it is in a batch.
Shapes: V ids, H hash functions, W buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Odd multipliers of multiplicative hashing; one for each hash function.
_MULTIPLIERS = (2654435761, 2246822519, 3266489917, 668265263)


class StreamingFrequency(nn.Module):
    """Estimates in how many of the batches an id occurs. Its state is in its state_dict.

    Ids that share a bucket are seen more often together, so their gaps come out too short; with
    several hash functions the longest gap is the best.

    Args:
        rate: of the moving mean of gaps, in (0, 1].
        num_buckets: None is one for each id, without collisions, and needs num_hashes=1.
        first_gap: that an id starts with.
    """

    seen: Tensor
    gap: Tensor
    step: Tensor

    def __init__(
        self,
        num_ids: int,
        *,
        rate: float = 0.01,
        num_buckets: int | None = None,
        num_hashes: int = 1,
        first_gap: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"StreamingFrequency needs 0 < rate <= 1; got {rate}")
        most = len(_MULTIPLIERS) if num_buckets else 1
        if not 1 <= num_hashes <= most:
            raise ValueError(
                f"StreamingFrequency needs 1 <= num_hashes <= {most}; got {num_hashes}"
            )
        self.rate, self.num_buckets = rate, num_buckets
        width = num_buckets or num_ids
        self.register_buffer("seen", torch.zeros(num_hashes, width))
        self.register_buffer("gap", torch.full((num_hashes, width), float(first_gap)))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def observe_(self, ids: Tensor) -> None:
        """Take note of the ids [n] of the next batch, each once."""
        self.step += 1
        for row in range(len(self.gap)):
            buckets = torch.unique(self._buckets(ids, row))
            gaps = self.step.to(self.gap.dtype) - self.seen[row, buckets]
            self.gap[row, buckets] = self.gap[row, buckets].lerp(gaps, self.rate)
            self.seen[row, buckets] = self.step.to(self.seen.dtype)

    def probabilities(self, ids: Tensor) -> Tensor:
        """Return the estimated share of batches with each id [n]; at most 1."""
        gaps = [self.gap[row, self._buckets(ids, row)] for row in range(len(self.gap))]
        return 1.0 / torch.stack(gaps).amax(dim=0).clamp(min=1.0)

    def _buckets(self, ids: Tensor, row: int) -> Tensor:
        if self.num_buckets is None:
            return ids
        return (ids * _MULTIPLIERS[row] >> 8).remainder(self.num_buckets)


def log_expected(batch_frequency: Tensor, *, num_uniform: int, num_ids: int) -> Tensor:
    """Return log of how often an id is expected among the candidates of a batch.

    Candidates are the targets of a batch, and `num_uniform` ids drawn uniformly beside them (mixed
    negative sampling, Yang et al., WWW 2020 companion).

    Args:
        batch_frequency: how often the id is expected among the targets of a batch.
    """
    return (batch_frequency + num_uniform / num_ids).log()
