"""Caser's queries by one compiled loop over histories, for a model whose weights stay.

A service answers one request at a time as often as not, and then some forty tensor operations on
a few numbers each take longer to be found than to be carried out.
Shapes: B batch, L window length, D width, H filters per height, K vertical filters, S items of all
histories, I items, U users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ensue.data.histories import HistoryBatch
from ensue.nn import cpu_kernels as kernels
from ensue.nn.activations import ACTIVATIONS

if TYPE_CHECKING:
    from ensue.models.sequential.caser import Caser


class CaserQueries:
    """What `Caser.forward` gives, from the weights as they are now.

    Args:
        model: in float32 in memory, with all its parts and plain tables (`can_take`).
    """

    def __init__(self, model: Caser) -> None:
        convolutions = model.convolutions
        filters = [
            convolutions.filters(height).flatten(1).T.flatten()
            for height in range(1, model.config.window + 1)
        ]
        unknown = model.unknown_user()[None]
        self._tables = kernels.arrays(model.item_embedding, model.user_embedding, unknown)
        self._weights = kernels.arrays(
            torch.cat(filters),
            convolutions.horizontal_bias.view(model.config.window, -1),
            convolutions.vertical_weight,
            convolutions.vertical_bias,
            model.hidden.weight.T,
            model.hidden.bias,
        )
        names = list(ACTIVATIONS)
        self._activations = (
            names.index(model.config.conv_activation),
            names.index(model.config.hidden_activation),
        )

    @staticmethod
    def can_take(model: Caser) -> bool:
        """Return whether the compiled loop has all that this model has."""
        plain = isinstance(model.item_embedding, nn.Parameter)
        tensors = (*model.parameters(), *model.buffers())
        in_memory = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        return plain and in_memory and model.config.parts == "pvh"

    def __call__(self, batch: HistoryBatch) -> Tensor:
        """Return the query of each history [B, 2 D]."""
        queries = torch.empty(len(batch), 2 * self._tables[0].shape[1])
        histories = kernels.arrays(batch.users, batch.items, batch.offsets)
        _fill(*histories, *self._tables, *self._weights, *self._activations, queries.numpy())
        return queries


@kernels.compiled
def _fill(  # type: ignore[no-untyped-def]
    users,
    items,
    offsets,
    item_table,
    user_table,
    unknown,
    filters,
    filter_bias,
    mix_weight,
    mix_bias,
    hidden_weight,
    hidden_bias,
    activation,
    hidden_activation,
    queries,
):
    """Set queries [B, 2 D] = [z; P_u] for users [B] and histories items [S], offsets [B + 1].

    item_table [I + 1, D], user_table [U, D], unknown [1, D]; filters: of each height h, [h D, H],
    flat; filter_bias [L, H], mix_weight [K, L], mix_bias [K], hidden_weight [K D + L H, D],
    hidden_bias [D].
    """
    dim, (window, num_filters), num_mixed = item_table.shape[1], filter_bias.shape, len(mix_bias)
    x = np.empty(window * dim, np.float32)
    sums, best = np.empty(num_filters, np.float32), np.empty(num_filters, np.float32)
    features = np.empty(num_mixed * dim + window * num_filters, np.float32)
    for b in range(len(users)):
        for place in range(window):
            n = offsets[b + 1] - window + place
            item = items[n] if n >= offsets[b] else 0
            for d in range(dim):
                x[place * dim + d] = item_table[item, d]
        for k in range(num_mixed):
            mixed = features[k * dim : (k + 1) * dim]
            for d in range(dim):
                mixed[d] = mix_bias[k]
            for place in range(window):
                for d in range(dim):
                    mixed[d] += mix_weight[k, place] * x[place * dim + d]
        first = 0
        for height in range(1, window + 1):
            best[:] = -np.inf
            for start in range(window - height + 1):
                sums[:] = 0
                for i in range(height * dim):
                    value, row = x[start * dim + i], first + i * num_filters
                    for f in range(num_filters):
                        sums[f] += value * filters[row + f]
                for f in range(num_filters):
                    best[f] = max(best[f], sums[f])
            first += height * dim * num_filters
            column = num_mixed * dim + (height - 1) * num_filters
            for f in range(num_filters):
                value = best[f] + filter_bias[height - 1, f]
                features[column + f] = kernels.activate(value, activation)
        query = queries[b]
        for d in range(dim):
            query[d] = hidden_bias[d]
        for i in range(len(features)):
            for d in range(dim):
                query[d] += features[i] * hidden_weight[i, d]
        for d in range(dim):
            query[d] = kernels.activate(query[d], hidden_activation)
            query[dim + d] = user_table[users[b] - 1, d] if users[b] > 0 else unknown[0, d]
