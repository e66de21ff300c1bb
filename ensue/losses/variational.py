"""The loss of a variational autoencoder of bags of items: likelihood, and distance from the prior.

Liang et al., WWW 2018, arXiv:1802.05814, Eq. 2 and 4.
Shapes: B bags, S items in all bags, D width, Z width of the latent vectors, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ensue.losses.full_softmax import Normalizer, softmax_pass
from ensue.nn.bags import bag_sum
from ensue.nn.embedding import gather_rows


def multinomial_loss(
    queries: Tensor,
    table: Tensor,
    bias: Tensor,
    items: Tensor,
    offsets: Tensor,
    *,
    weights: Tensor,
) -> Tensor:
    """Return sum_b weights[b] * sum_i -log softmax(queries[b] . table + bias)[i], a scalar.

    The inner sum is over the n items of bag b. With the logits z it is n log sum exp z, made in
    blocks as in `losses.full_softmax`, less the sum of their z, which is the product of the query
    and the sum of their rows: neither the logits [B, I] nor a matrix of bags is made.

    Args:
        queries: [B, D].
        table: [I + 1, D], item vectors; bias: [I + 1]. Row 0 takes no part.
        items: [S] in 1..I; offsets: [B + 1], bag b is items[offsets[b]:offsets[b + 1]].
        weights: [B], without gradient.
    """
    lengths = offsets.diff()
    of_items = weights.repeat_interleave(lengths, output_size=items.shape[0])
    normalizers = softmax_pass(
        queries,
        table,
        bias,
        ids=torch.ones(len(queries), 1, dtype=torch.long, device=table.device),  # any, at amount 0
        amounts=table.new_zeros(len(queries), 1),
        normalizers=(Normalizer(1.0, 1.0),),
        weights=weights * lengths,
    )
    products = queries * bag_sum(table, items, offsets, of_items)
    return normalizers - products.sum() - (gather_rows(bias, items) * of_items).sum()


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from the standard normal to independent ones [B].

    Args:
        mean, log_variance: [B, Z].

    >>> gaussian_divergence(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)).tolist()
    [0.5]
    """
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1)
