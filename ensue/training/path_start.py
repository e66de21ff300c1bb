"""First paths from item vectors: residual k-means, with the sizes of the paths kept in balance.

The K centroids of a layer are the k-means of what the layers before leave of the vectors, so the
sum of a path's centroids is near the items that lie on it. The paths with the least squared error
are the candidates of an item, and `assign_paths` chooses among them with its penalty on crowded
paths.
The published method starts from random paths.
Shapes: I items, E width of an item vector, D layers, K nodes, S candidates of an item.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ensue.training.path_assignment import Candidates

ROUNDS = 10
SAMPLES = 256  # vectors for each centroid
BLOCK_VALUES = 1 << 22  # numbers held at a time


@torch.no_grad()
def cluster_candidates(
    vectors: Tensor, *, depth: int, width: int, num_candidates: int, generator: torch.Generator
) -> Candidates:
    """Return candidates of the items with vectors [I, E], each counted once.

    A score is exp(-(error - least error of the item) / mean of the least errors).
    """
    codebooks = fit_codebooks(vectors, depth=depth, width=width, generator=generator)
    beam = min(num_candidates, width**depth)
    size = max(1, BLOCK_VALUES // (beam * (width + vectors.shape[1])))
    found = [nearest_codes(block, codebooks, beam) for block in torch.split(vectors, size)]
    codes, errors = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    least = errors[:, :1]
    scores = np.exp(-(errors - least) / max(float(least.mean()), 1e-12))
    counts = np.ones(len(vectors))
    return Candidates(codes, scores.astype(np.float32), counts)


def fit_codebooks(
    vectors: Tensor, *, depth: int, width: int, generator: torch.Generator
) -> list[Tensor]:
    """Return the centroids [K, E] of each layer, of a sample where there are many vectors."""
    sample = torch.randperm(len(vectors), generator=generator)[: SAMPLES * width]
    rest = vectors[sample]
    codebooks = []
    for _ in range(depth):
        centroids = k_means(rest, width, generator)
        codebooks.append(centroids)
        rest = rest - centroids[_nearest(rest, centroids)]
    return codebooks


def k_means(vectors: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Return K centroids [K, E] of vectors [n, E] by Lloyd's method.

    They start at vectors drawn without replacement; a centroid that no vector is nearest to moves
    to a random vector. Where n < K some are equal.
    """
    picks = torch.randperm(len(vectors), generator=generator)
    centroids = vectors[picks[torch.arange(width) % len(vectors)]].clone()
    for _ in range(ROUNDS):
        nearest = _nearest(vectors, centroids)
        sizes = torch.bincount(nearest, minlength=width)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, vectors)
        centroids = sums / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero().squeeze(1)
        centroids[empty] = vectors[torch.randint(len(vectors), (len(empty),), generator=generator)]
    return centroids


def nearest_codes(vectors: Tensor, codebooks: list[Tensor], beam: int) -> tuple[Tensor, Tensor]:
    """Return the codes [n, B] of paths near vectors [n, E], and their squared errors, least first.

    Found by a beam search over the layers, so not always the B nearest.
    """
    rest, codes = vectors[:, None], torch.zeros(len(vectors), 1, dtype=torch.long)
    for centroids in codebooks:
        width = len(centroids)
        errors = rest.square().sum(2, keepdim=True) - 2 * rest @ centroids.T
        errors = (errors + centroids.square().sum(1)).clamp(min=0).flatten(1)
        kept, best = errors.topk(min(beam, errors.shape[1]), dim=1, largest=False)
        before, node = torch.div(best, width, rounding_mode="floor"), best % width
        codes = codes.gather(1, before) * width + node
        rest = rest.gather(1, before[..., None].expand(-1, -1, rest.shape[2])) - centroids[node]
    return codes, kept


def _nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Return the nearest centroid [n] of vectors [n, E], a block at a time."""
    norms = centroids.square().sum(1)
    blocks = torch.split(vectors, max(1, BLOCK_VALUES // len(centroids)))
    return torch.cat([(norms - 2 * block @ centroids.T).argmin(1) for block in blocks])
