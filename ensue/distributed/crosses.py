"""Cross layers and products of pairs by sums over columns, for several workers.

After Rong et al., SIGIR 2020, arXiv:1909.04823. A cross layer of DCN (Wang et al., 2017,
arXiv:1708.05123) needs one sum over all inputs, one of low rank of DCN-V2 (Wang et al., WWW 2021,
arXiv:2008.13535, Eq. 2) R of them, and changes each input by them alone. Products of pairs of
vectors (Naumov et al., 2019, arXiv:1906.00091) are sums over elements, so each worker has some
elements of all vectors.
Shapes: N workers, b rows of each, B = N b; F columns, G of them here; D width, D' elements here; P
replicated inputs; R rank of a cross.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensue.distributed.replicas import spread, sum_gradient
from ensue.distributed.shards import Piece, keep_piece_, under
from ensue.distributed.substitution import Pieces, Source, Substitution
from ensue.nn.crosses import CrossNetwork, LowRankCross, PairwiseDots, VectorCross


class CrossSums(Pieces):
    """Cross layers of low rank or with vectors, each worker with the inputs of its columns.

    vectors: [B, G, D'], what the layers made of own columns in the last call.
    """

    vectors: Tensor

    def __init__(self, crosses: CrossNetwork, source: Source, group: Substitution) -> None:
        super().__init__()
        self.layers = crosses.layers
        self._source, self._group = source, group
        self.inputs, self.parted, self.dim = source.inputs, source.parted, source.dim
        self.columns = source.columns
        own, width = source.inputs(source.columns), crosses.width
        rest = torch.arange(group.num_columns * source.dim, width)
        self._own = len(own)
        self._index = torch.cat([own, rest])
        for layer in self.layers:
            assert isinstance(layer, (LowRankCross, VectorCross))
            keep_piece_(layer.down, "weight", Piece(1, self._index))
            if isinstance(layer, VectorCross):
                keep_piece_(layer, "bias", Piece(0, self._index))
                continue
            keep_piece_(layer.up, "weight", Piece(0, self._index))
            keep_piece_(layer.up, "bias", Piece(0, self._index))

    def pieces(self) -> dict[str, Piece]:
        """Return the parts of the weights that this worker has."""
        shared = len(self._index) - self._own
        columns, rows = Piece(1, self._index, shared), Piece(0, self._index, shared)
        found: dict[str, Piece] = {}
        for number, layer in enumerate(self.layers):
            own = {"down.weight": columns}
            if isinstance(layer, VectorCross):
                own["bias"] = rows
            else:
                own |= {"up.weight": rows, "up.bias": rows}
            found |= under(f"layers.{number}.", own)
        return found

    def forward(self, rest: Tensor) -> Tensor:
        """Return what the layers make of replicated inputs [b, P]; of own columns they keep it."""
        start = self._source.vectors.flatten(1)
        own, others, num_own = start, rest, self._own
        for layer in self.layers:
            assert isinstance(layer, (LowRankCross, VectorCross))
            down = layer.down.weight
            of_all, of_rows = self._group.sum_for_all(
                own @ down[:, :num_own].T, others @ down[:, num_own:].T
            )
            of_rows = of_rows[: len(rest)]
            if isinstance(layer, VectorCross):
                own = start * of_all + own + layer.bias[:num_own]
                others = rest * of_rows + others + layer.bias[num_own:]
                continue
            up, bias = layer.up.weight, layer.up.bias
            own = start * torch.addmm(bias[:num_own], of_all, up[:num_own].T) + own
            others = rest * torch.addmm(bias[num_own:], of_rows, up[num_own:].T) + others
        self.vectors = own.view(self._source.vectors.shape)
        return others


class DotSums(nn.Module):
    """The products of every two vectors, each worker with some elements of all of them."""

    def __init__(self, dots: PairwiseDots, source: Source, group: Substitution) -> None:
        super().__init__()
        self.dots, self._source, self._group = dots, source, group
        dim, owners = source.dim, group.owners
        self._widths = [len(owners.elements(dim, rank)) for rank in range(owners.size)]

    def forward(self, bottom: Tensor) -> Tensor:
        """Return the products [b, pairs], given the vectors of replicated inputs [b, n, D]."""
        vectors = self._source.vectors
        if bottom.shape[1]:
            vectors = torch.cat([self._own_elements(bottom, len(vectors)), vectors], dim=1)
        return self._group.sum(self.dots(vectors))[: len(bottom)]

    def _own_elements(self, bottom: Tensor, total: int) -> Tensor:
        """Return the elements that this worker has [B, n, D'] of the vectors of all rows."""
        workers, wire = self._group.workers, self._group.wire
        is_whole = self._group.schedule == "all_reduce"
        num_rows = total if is_whole else total // workers.size
        padding = bottom.new_zeros(num_rows - len(bottom), *bottom.shape[1:])
        bottom = torch.cat([bottom, padding])
        if is_whole:
            summed = sum_gradient(bottom, workers, wire=wire)
            return summed[:, :, self._source.elements]
        parts = [spread(one, self._widths, workers, wire=wire) for one in bottom.unbind(1)]
        return torch.stack(parts, dim=1)
