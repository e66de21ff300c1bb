"""NeuMF: a generalized product of user and item vectors (GMF) beside a perceptron over both.

He et al., "Neural collaborative filtering", WWW 2017, arXiv:1708.05031, Eq. 12. A logit is

    w . (p * q) + v . MLP([p', q']) + b

with vectors p, p' of the user and q, q' of the item, and rectified layers as the MLP. With
`hidden=[]` the MLP is the identity: GMF and a term that is linear in p' and q'. That is what the
authors of the injection study (Tang et al., RecSys 2020, arXiv:2008.04876) ran as "NeuralCF", as
their list of layers leaves none.
Departures: no pre-training of the two parts; w starts at 1, so that GMF starts as a matrix
factorization; vectors start at a deviation of `init_std`, which is .01 in the paper. A user
never seen in training has for p the direction that raises the logits of the items of the history
most, w * (the sum of their q), at the mean length of a user vector (the rule of BPR), and for p'
the mean of all users; an empty history has p = 0.
To score a catalogue, the first layer is computed for users and for items apart and added in blocks.
Shapes: B batch, C candidates, I items, U users, D width of GMF, M width of p' and q', H of a layer.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.histories import HistoryBatch
from ensue.models.base import Model
from ensue.nn.bags import bag_sum
from ensue.nn.embedding import dot_rows, gather_rows
from ensue.nn.perceptron import add_pair_scores_, linear_layer, rectified_layer


class NeuMFConfig(Config):
    """Settings of NeuMF.

    dim: width of the vectors of GMF. mlp_dim: of those of the perceptron.
    hidden: widths of its layers; none is a linear term.
    num_negatives: sampled for each interaction.
    init_std: deviation of the vectors at the start.
    """

    dim: int = Field(default=32, ge=1)
    mlp_dim: int = Field(default=32, ge=1)
    hidden: list[PositiveInt] = Field(default_factory=lambda: [32, 16])
    num_negatives: int = Field(default=4, ge=1)
    init_std: float = Field(default=0.1, gt=0)


class NeuMF(Model):
    """Tables of GMF and of the perceptron, whose last layer is the output."""

    Config = NeuMFConfig

    def __init__(self, config: NeuMFConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)

        def table(rows: int, width: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, width) * config.init_std)

        self.user_embedding = table(num_users, config.dim)
        self.item_embedding = table(num_items + 1, config.dim)
        self.mlp_user_embedding = table(num_users, config.mlp_dim)
        self.mlp_item_embedding = table(num_items + 1, config.mlp_dim)
        self.product_weights = nn.Parameter(torch.ones(config.dim))
        widths = [2 * config.mlp_dim, *config.hidden]
        layers = [rectified_layer(one, other) for one, other in pairwise(widths)]
        self.first, *others = *layers, linear_layer(widths[-1], 1)
        self.others = nn.ModuleList(others)
        self._frozen: tuple[Tensor, Tensor, Tensor] | None = None

    def logits(self, users: Tensor, candidates: Tensor) -> Tensor:
        """Return logits [B, C] of candidate ids [B, C] for known users [B]."""
        queries = gather_rows(self.user_embedding, users - 1) * self.product_weights
        of_users = self._of_users(gather_rows(self.mlp_user_embedding, users - 1))
        of_items = self._of_items(gather_rows(self.mlp_item_embedding, candidates))
        products = dot_rows(queries, self.item_embedding, candidates)
        return products + self._behind(of_users[:, None] + of_items)

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return logits [B, I + 1]; column 0 (padding) has no meaning."""
        of_items, mean, length = self._shared()
        is_known = (batch.users > 0)[:, None]
        rows = (batch.users - 1).clamp(min=0)
        unknown = F.normalize(self._direction(batch), dim=1) * length
        vectors = torch.where(is_known, self.user_embedding[rows], unknown)
        scores = (vectors * self.product_weights) @ self.item_embedding.T
        of_users = self._of_users(torch.where(is_known, self.mlp_user_embedding[rows], mean))
        return add_pair_scores_(scores, of_users, of_items, self._behind)

    @torch.no_grad()
    def freeze_(self) -> None:
        """Compute once what all answers read."""
        self._frozen = None
        self._frozen = self._shared()

    def _of_users(self, vectors: Tensor) -> Tensor:
        """Return what vectors of users [B, M] add to the first layer [B, H]."""
        return F.linear(vectors, self.first.weight[:, : self.config.mlp_dim])

    def _of_items(self, vectors: Tensor) -> Tensor:
        """Return what vectors of items [..., M] add to the first layer [..., H], and its bias."""
        return F.linear(vectors, self.first.weight[:, self.config.mlp_dim :], self.first.bias)

    def _behind(self, x: Tensor) -> Tensor:
        """Return what the perceptron adds to logits [B, C], given its first layer [B, C, H]."""
        for layer in self.others:
            x = layer(x.relu())
        return x.squeeze(-1)

    def _direction(self, batch: HistoryBatch) -> Tensor:
        """Return w * (the sum of the vectors of a history) [B, D]; 0 for an empty one."""
        weights = (batch.items > 0).to(self.item_embedding.dtype)
        sums = bag_sum(self.item_embedding, batch.items, batch.offsets, weights)
        return sums * self.product_weights

    def _shared(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what all answers read.

        What items add to the first layer [I + 1, H], the mean p' [M], and the mean length of p.
        """
        if self._frozen is not None:
            return self._frozen
        of_items = self._of_items(self.mlp_item_embedding)
        length = self.user_embedding.norm(dim=1).mean()
        return of_items, self.mlp_user_embedding.mean(dim=0), length
