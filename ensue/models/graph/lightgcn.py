"""LightGCN: user and item vectors that are means of what lies 0 to L steps away in the graph.

He et al., SIGIR 2020, arXiv:2002.02126. Layer 0 are free vectors E; each next layer is the product
with the graph of who has what, normalized by the roots of both degrees; the mean of all layers is
what scores, with nothing else to learn.
Departures: scores are cosines over a temperature and the loss is a softmax over items (as in Wu et
al., "On the Effectiveness of Sampled Softmax Loss for Item Recommendation", TOIS 2023,
arXiv:2201.02327), unless the settings say "dot" and "bpr". In answers a cosine is multiplied with a
power of the length of the item's vector, which training leaves free and which grows with the number
of its users: by direction alone the popular are recommended too little, by the whole product too
much. History first: the last step to a user is made from the history that is given, so that anyone
is answered, with E of the user where there is one; with the history of the training it is the
vector of the training. Who has neither gets the mean of all users.
Shapes: B batch, D width, C candidates, S items in a batch of histories, I items, U users, L layers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import Model
from ensue.nn.bags import bag_sum
from ensue.nn.jagged import last_occurrences, row_numbers
from ensue.nn.propagation import Adjacency

LEAST_LENGTH = 1e-12


class LightGCNConfig(Config):
    """Settings of LightGCN.

    num_layers: L, steps in the graph.
    similarity: "dot" is the product of the vectors, as in the paper; "cosine" that of their
        directions.
    length_power: of the length of an item's vector, that answers multiply a cosine with.
    temperature: that logits are divided by in training.
    loss: "softmax" of each item of a user against those that the user does not have; "bpr" against
        one drawn item, as in the paper.
    num_negatives: of the softmax: so many items are drawn for a batch, beside those of its users;
        None is the whole catalogue.
    init_std: deviation of the vectors at the start.
    """

    dim: int = Field(default=64, ge=1)
    num_layers: int = Field(default=3, ge=1)
    similarity: Literal["cosine", "dot"] = "cosine"
    length_power: float = Field(default=0.3, ge=0, le=1)
    temperature: float = Field(default=0.1, gt=0)
    loss: Literal["softmax", "bpr"] = "softmax"
    num_negatives: int | None = Field(default=None, ge=1)
    init_std: float = Field(default=0.1, gt=0)


class LightGCN(Model):
    """Vectors of users and items, and what answers read of the graph.

    graph: who has what; None where nobody told, as in a model that was loaded.
    item_roots: [I], one over the root of the number of users of each item; 0 of none.
    item_vectors: [I + 1, D], what queries are matched with. item_shares: [I + 1, D], what each item
    gives to a user who has it. mean_user: [D]. All three are taken off the graph for answers.
    """

    Config = LightGCNConfig
    item_roots: Tensor
    item_vectors: Tensor
    item_shares: Tensor
    mean_user: Tensor

    def __init__(self, config: LightGCNConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        dim = config.dim
        self.user_embedding = nn.Parameter(torch.randn(num_users, dim) * config.init_std)
        self.item_embedding = nn.Parameter(torch.randn(num_items, dim) * config.init_std)
        self.graph: Adjacency | None = None
        self.register_buffer("item_roots", torch.zeros(num_items))
        self.register_buffer("item_vectors", torch.zeros(num_items + 1, dim))
        self.register_buffer("item_shares", torch.zeros(num_items + 1, dim))
        self.register_buffer("mean_user", torch.zeros(dim))

    @torch.no_grad()
    def observe_(self, histories: Histories) -> None:
        """Take the distinct interactions as the edges of the graph."""
        offsets, items = histories.distinct_items(self.num_items)
        lengths = np.diff(offsets)
        users = np.repeat(np.arange(len(lengths)), lengths)
        sizes = (self.num_users, self.num_items)
        graph = Adjacency.build(users, items, np.ones(len(items), dtype=np.float32), sizes)
        device = self.item_embedding.device
        self.graph = graph.to(device)
        counts = torch.from_numpy(np.bincount(items, minlength=self.num_items + 1)[1:]).to(device)
        self.item_roots.copy_(counts.clamp(min=1).rsqrt() * (counts > 0))
        # Never moved, a vector of a user without an item would be noise in his answers.
        self.user_embedding[torch.from_numpy(lengths[1:] == 0).to(device)] = 0

    def layers(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of users [U, D] and items [I, D], made of the graph."""
        graph = self._graph()
        return graph.layer_mean(self.user_embedding, self.item_embedding, self.config.num_layers)

    def scaled_users(self, vectors: Tensor) -> Tensor:
        """Return vectors of users as scores multiply them."""
        return F.normalize(vectors, dim=-1) if self.config.similarity == "cosine" else vectors

    def scaled_items(self, vectors: Tensor) -> Tensor:
        """Return vectors of items as scores multiply them; lengths count in answers alone."""
        if self.config.similarity == "dot":
            return vectors
        power = 0.0 if self.training else self.config.length_power
        lengths = vectors.norm(dim=-1, keepdim=True).clamp(min=LEAST_LENGTH)
        return vectors * lengths.pow(power - 1)

    def logits(self, users: Tensor, candidates: Tensor) -> Tensor:
        """Return logits [B, C] of candidate ids [B, C] for known users [B]."""
        of_users, of_items = self.layers()
        queries = self.scaled_users(of_users[users - 1])
        chosen = self.scaled_items(of_items[(candidates - 1).clamp(min=0)])
        return torch.einsum("bd,bcd->bc", queries, chosen) / self.config.temperature

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        items, shares = self._answers()
        return self._queries(batch, shares) @ items.T

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return the user vectors [B, D], and the lengths [B] of the histories."""
        return self._queries(batch, self._answers()[1]), batch.offsets.diff()

    def item_table(self) -> tuple[Tensor, None]:
        """Return what queries are matched with, vectors [I + 1, D], and that there is no bias."""
        return self._answers()[0], None

    def own_part(self, users: Tensor) -> Tensor:
        """Return what the vectors of users [B] are made of beside their items [B, D]; 0 of none."""
        rows = self.user_embedding[(users - 1).clamp(min=0)] / (self.config.num_layers + 1)
        return rows * (users > 0)[:, None]

    def as_queries(self, users: Tensor) -> Tensor:
        """Return what items are multiplied with, given vectors [B, D]; zeros say nothing."""
        says_nothing = (users == 0).all(dim=1, keepdim=True)
        return self.scaled_users(torch.where(says_nothing, self.mean_user, users))

    def train(self, mode: bool = True) -> LightGCN:
        """Set the mode; for answers, take what they need off the graph."""
        super().train(mode)
        if not mode and self.graph is not None:
            with torch.no_grad():
                items, shares = self._from_graph()
                self.item_vectors.copy_(items)
                self.item_shares.copy_(shares)
                self.mean_user.copy_(self.layers()[0].mean(dim=0))
        return self

    def _answers(self) -> tuple[Tensor, Tensor]:
        """Return item vectors [I + 1, D], and what each item gives to a user who has it."""
        if self.training and self.graph is not None:
            return self._from_graph()
        return self.item_vectors, self.item_shares

    def _from_graph(self) -> tuple[Tensor, Tensor]:
        """Return what `_answers` does, with a gradient.

        One step from all layers but the last is the sum of all layers but the first.
        """
        graph, num_layers = self._graph(), self.config.num_layers
        users, items = graph.layer_mean(self.user_embedding, self.item_embedding, num_layers - 1)
        share = 1 / (num_layers + 1)
        users, items = users * (num_layers * share), items * (num_layers * share)
        vectors = self.scaled_items(graph.propagate_back(users, self.item_embedding * share))
        shares = items * self.item_roots[:, None]
        return F.pad(vectors, (0, 0, 1, 0)), F.pad(shares, (0, 0, 1, 0))

    def _queries(self, batch: HistoryBatch, shares: Tensor) -> Tensor:
        """Return the user vectors [B, D], given what items give to users [I + 1, D]."""
        owners = row_numbers(batch.offsets, len(batch.items))
        weights = torch.zeros(len(batch.items), dtype=shares.dtype, device=shares.device)
        weights[last_occurrences(owners, batch.items, self.num_items + 1)] = 1
        weights[batch.items == 0] = 0
        counts = weights.new_zeros(len(batch)).index_add_(0, owners, weights)
        weights *= counts.clamp(min=1).rsqrt()[owners]
        users = bag_sum(shares, batch.items, batch.offsets, weights)
        return self.as_queries(users + self.own_part(batch.users))

    def _graph(self) -> Adjacency:
        if self.graph is None:
            raise RuntimeError("LightGCN is trained on the graph that observe_ is told of")
        return self.graph
