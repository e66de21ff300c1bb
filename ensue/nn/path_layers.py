"""The probability of a path: one choice of a node in each layer, given a query and what was chosen.

Gao et al., "Deep Retrieval: Learning a Retrievable Structure for Large-Scale Recommendations",
CIKM 2021, arXiv:2007.07203, section 3.1: p(c | x) is the product over layers of a softmax over the
nodes of the layer, from a network with one hidden layer over the query and the embeddings of all
previous choices. The paper does not say whether the embeddings are shared by layers; here each
layer has its own.
The query's part of a hidden layer is computed once for all paths of a query, and the part of a
choice is a row of a table [K, H]: the network costs little more than its last product.
Shapes: B queries, E their width, D layers, K nodes of a layer, P width of a node, H hidden width, J
paths of a query. The code of a path is the number c_1 K^(D-1) + ... + c_D, choices from 0 on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PathLayers(nn.Module):
    """The D networks of a distribution over K ** D paths."""

    def __init__(self, dim: int, *, depth: int, width: int, node_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.dim, self.depth, self.width, self.node_dim = dim, depth, width, node_dim
        self.node_embedding = nn.Parameter(torch.randn(depth - 1, width, node_dim) / node_dim**0.5)
        self.hidden = nn.ModuleList(
            nn.Linear(dim + layer * node_dim, hidden_dim) for layer in range(depth)
        )
        self.output = nn.ModuleList(nn.Linear(hidden_dim, width) for _ in range(depth))

    @property
    def num_paths(self) -> int:
        """Number of paths K ** D."""
        return int(self.width**self.depth)

    def networks(self, layer: int) -> tuple[nn.Linear, nn.Linear]:
        """Return the two linear layers of the network of a layer."""
        hidden, output = self.hidden[layer], self.output[layer]
        assert isinstance(hidden, nn.Linear)
        assert isinstance(output, nn.Linear)
        return hidden, output

    def query_part(self, layer: int, queries: Tensor) -> Tensor:
        """Return what queries [B, E] give to the hidden layer [B, H], its bias among it."""
        hidden, _ = self.networks(layer)
        return F.linear(queries, hidden.weight[:, : self.dim], hidden.bias)

    def choice_part(self, layer: int, earlier: int) -> Tensor:
        """Return what each choice in an earlier layer gives to the hidden layer [K, H]."""
        first = self.dim + earlier * self.node_dim
        hidden, _ = self.networks(layer)
        weight = hidden.weight[:, first : first + self.node_dim]
        return self.node_embedding[earlier] @ weight.T

    def layer_log_probs(self, layer: int, queries: Tensor, choices: Tensor) -> Tensor:
        """Return log p of the K nodes [B, J, K] behind prefixes, choices [B, J, layer or more]."""
        hidden = self.query_part(layer, queries)[:, None]
        for earlier in range(layer):
            hidden = hidden + F.embedding(choices[..., earlier], self.choice_part(layer, earlier))
        logits: Tensor = self.output[layer](hidden.relu())
        return logits.log_softmax(dim=-1)

    def log_probs(self, queries: Tensor, choices: Tensor) -> Tensor:
        """Return log p of paths [B, J], given queries [B, E] and choices [B, J, D]."""
        total = queries.new_zeros(choices.shape[:2])
        for layer in range(self.depth):
            log_p = self.layer_log_probs(layer, queries, choices)  # [B, 1, K] of the first layer
            log_p = log_p.expand(-1, choices.shape[1], -1)
            total = total + log_p.gather(2, choices[..., layer : layer + 1]).squeeze(2)
        return total

    def search(self, queries: Tensor, beam: int) -> tuple[Tensor, Tensor]:
        """Return codes and log p of the likely paths [B, n], best first, for queries [B, E].

        Algorithm 1: `beam` prefixes are kept in each layer. n is `beam`, or the number of paths
        where there are fewer.
        """
        log_p = self.layer_log_probs(0, queries, queries.new_zeros((len(queries), 1, 0)).long())
        log_p, codes = log_p[:, 0].topk(min(beam, self.width), dim=1)
        for layer in range(1, self.depth):
            choices = unpack_codes(codes, depth=layer, width=self.width)
            of_nodes = self.layer_log_probs(layer, queries, choices)
            joint = (log_p[..., None] + of_nodes).flatten(1)
            log_p, best = joint.topk(min(beam, joint.shape[1]), dim=1)
            before = torch.div(best, self.width, rounding_mode="floor")
            codes = codes.gather(1, before) * self.width + best % self.width
        return codes, log_p


def unpack_codes(codes: Tensor, *, depth: int, width: int) -> Tensor:
    """Return the choices [..., D] of codes [...].

    >>> unpack_codes(torch.tensor([7, 0]), depth=3, width=2).tolist()
    [[1, 1, 1], [0, 0, 0]]
    """
    steps = width ** torch.arange(depth - 1, -1, -1, device=codes.device)
    return torch.div(codes[..., None], steps, rounding_mode="floor") % width


def pack_codes(choices: Tensor, *, width: int) -> Tensor:
    """Return the codes [...] of choices [..., D].

    >>> pack_codes(torch.tensor([[1, 1, 1], [0, 1, 0]]), width=2).tolist()
    [7, 2]
    """
    depth = choices.shape[-1]
    steps = width ** torch.arange(depth - 1, -1, -1, device=choices.device)
    return (choices * steps).sum(dim=-1)
