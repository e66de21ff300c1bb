"""GraphSAGE over all graphs of `benchmarks.medres`, by PyTorch Geometric.

PYTHON benchmarks/_medres_pyg.py PROBLEM.npz ANSWERS.npz

`benchmarks._medres_hetero` writes the one and reads the other. Layers of HeteroConv with a SAGEConv
(mean) for each graph and direction, over free vectors of all entities; the score is the product of
what comes out for user and item. A step goes over all graphs, but for the interactions of its
batch, which are to be found. SAGEConv has no weights of edges: none are read.
The epoch with the best pAp@10 on the validation part counts. It is measured with the graphs of the
training part; then the same model reads those that are known at the test.
Shapes: U users, I items, P pairs of users and items, E edges, N drawn items of a pair, D width.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import HeteroConv, SAGEConv

K = 10
BLOCK = 256  # users whose scores are made at once
EdgeType = tuple[str, str, str]


class Links(NamedTuple):
    """The edges of one direction: matrix [targets, sources], its transpose, and how many a target
    has [targets, 1], 1 for none.
    """

    matrix: Tensor
    transposed: Tensor
    degrees: Tensor


class MeanOfNeighbors(torch.autograd.Function):
    """Means over neighbors whose backward has the transpose at hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, links: Links) -> Tensor:
        """Return the means [targets, D] of sources [sources, D]."""
        ctx.links = links
        return torch.sparse.mm(links.matrix, x) / links.degrees

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the sources."""
        return torch.sparse.mm(ctx.links.transposed, grad / ctx.links.degrees), None


class MeanConv(SAGEConv):  # type: ignore[misc]
    """SAGEConv, in a fifth of the time: its own backward transposes the matrix each time."""

    def propagate(self, edge_index: Links, x: tuple[Tensor, Tensor], size: Any = None) -> Tensor:
        """Return the means of the neighbors."""
        means: Tensor = MeanOfNeighbors.apply(x[0], edge_index)  # type: ignore[no-untyped-call]
        return means


class HeteroSage(nn.Module):
    """Free vectors of all entities, and layers over all graphs, with a rectifier between them.

    sizes: number of entities of each type. kinds: of the edges.
    """

    def __init__(
        self, sizes: dict[str, int], kinds: list[EdgeType], settings: dict[str, Any]
    ) -> None:
        super().__init__()
        dim = settings["dim"]
        self.vectors = nn.ParameterDict(
            {name: nn.Parameter(0.1 * torch.randn(size, dim)) for name, size in sizes.items()}
        )
        self.layers = nn.ModuleList(
            HeteroConv({kind: MeanConv((dim, dim), dim) for kind in kinds}, aggr="sum")
            for _ in range(settings["layers"])
        )
        self.dropout = nn.Dropout(settings["dropout"])

    def forward(self, links: dict[EdgeType, Links]) -> tuple[Tensor, Tensor]:
        """Return the vectors of users [U, D] and items [I, D]."""
        found = dict(self.vectors.items())
        for number, layer in enumerate(self.layers):
            if number:
                found = {name: F.relu(values) for name, values in found.items()}
            found = layer({name: self.dropout(values) for name, values in found.items()}, links)
        return found["user"], found["item"]


class Graphs:
    """The graphs that are known in a part.

    kinds: types of the two sides of each graph, its name between them.
    sizes: number of entities of each type.
    pairs: [2, E] of each graph, from 0 on, ordered by the first side; the first are interactions.
    links: of both directions of all graphs.
    """

    def __init__(self, kinds: list[EdgeType], sizes: dict[str, int], pairs: list[Tensor]) -> None:
        self.kinds, self.sizes, self.pairs = kinds, sizes, pairs
        self.links: dict[EdgeType, Links] = {}
        for kind, own in zip(kinds, pairs, strict=True):
            self.links |= self._both(kind, own)

    def without(self, hidden: Tensor) -> dict[EdgeType, Links]:
        """Return the links without some of the interactions, given by their places."""
        is_kept = torch.ones(self.pairs[0].shape[1], dtype=torch.bool)
        is_kept[hidden] = False
        return {**self.links, **self._both(self.kinds[0], self.pairs[0][:, is_kept])}

    def _both(self, kind: EdgeType, pairs: Tensor) -> dict[EdgeType, Links]:
        first, name, second = kind
        num_first, num_second = self.sizes[first], self.sizes[second]
        ordered = pairs[:, torch.argsort(pairs[1], stable=True)]
        forth = _matrix(ordered[1], ordered[0], (num_second, num_first))
        back = _matrix(pairs[0], pairs[1], (num_first, num_second))
        return {
            (first, name, second): Links(forth, back, _degrees(forth)),
            (second, f"back_{name}", first): Links(back, forth, _degrees(back)),
        }


def _matrix(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the matrix of ones at ascending rows [E] and columns [E]."""
    offsets = F.pad(torch.bincount(rows, minlength=shape[0]).cumsum(0), (1, 0))
    return torch.sparse_csr_tensor(offsets, columns, torch.ones(len(rows)), shape)


def _degrees(matrix: Tensor) -> Tensor:
    return matrix.crow_indices().diff().clamp(min=1)[:, None].float()


def loss_of(users: Tensor, items: Tensor, pairs: Tensor, settings: dict[str, Any]) -> Tensor:
    """Return the loss of pairs [2, P] of vectors of users [U, D] and items [I, D].

    Each pair has items of its own, drawn uniformly.
    """
    drawn = torch.randint(len(items), (pairs.shape[1], settings["num_negatives"]))
    own = users[pairs[0]]
    positives = (own * items[pairs[1]]).sum(dim=1)
    negatives = torch.einsum("pd,pnd->pn", own, items[drawn])
    if settings["loss"] == "bpr":
        return F.softplus(negatives - positives[:, None]).mean()
    return F.softplus(-positives).mean() + F.softplus(negatives).mean()


def pap(users: Tensor, items: Tensor, seen: Tensor, targets: Tensor) -> float:
    """Return the mean pAp@K of the users that have targets.

    Of the best 2 K items, which hold every pair that pAp@K counts.

    Args:
        users, items: vectors [U, D] and [I, D].
        seen, targets: distinct pairs [2, P]; the former are no candidates.
    """
    counts = torch.bincount(targets[0], minlength=len(users))
    values = []
    for block in torch.unique(targets[0]).split(BLOCK):
        places = torch.full((len(users),), -1)
        places[block] = torch.arange(len(block))
        scores = users[block] @ items.T
        is_target = torch.zeros(scores.shape, dtype=torch.bool)
        for table, pairs, value in ((scores, seen, -torch.inf), (is_target, targets, True)):
            rows = places[pairs[0]]
            table[rows[rows >= 0], pairs[1][rows >= 0]] = value
        is_hit = is_target.gather(1, scores.topk(2 * K).indices)
        beaten = (K - (~is_hit).cumsum(dim=1)).clamp(min=0)
        counted = is_hit & (is_hit.cumsum(dim=1) <= K)
        values.append((beaten * counted).sum(dim=1) / (K * counts[block].clamp(max=K)))
    return float(torch.cat(values).mean())


def train(
    graphs: Graphs, known: Graphs, validation: Tensor, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return vectors, pAp@K and number of the epoch that is best on the validation part.

    Args:
        graphs, known: of the training part, and those at the test.
        validation: pairs [2, P] to be found.
    """
    torch.manual_seed(settings["seed"])
    model = HeteroSage(graphs.sizes, list(graphs.links), settings)
    optimizer = torch.optim.Adam(
        model.parameters(), settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    pairs, best, stale = graphs.pairs[0], {"value": -1.0}, 0
    for epoch in range(1, settings["epochs"] + 1):
        model.train()
        for places in torch.randperm(pairs.shape[1]).chunk(settings["steps"]):
            users, items = model(graphs.without(places))
            loss = loss_of(users, items, pairs[:, places], settings)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if epoch % settings["validate_every"] and epoch < settings["epochs"]:
            continue
        model.eval()
        with torch.no_grad():
            users, items = model(graphs.links)
            value = pap(users, items, pairs, validation)
            if value > best["value"]:
                best, stale = {"value": value, "epoch": epoch}, 0
                best |= {"validation_users": users.numpy(), "validation_items": items.numpy()}
                users, items = model(known.links)
                best |= {"test_users": users.numpy(), "test_items": items.numpy()}
                continue
        stale += 1
        if stale >= settings["patience"]:
            break
    return best


def main() -> int:
    """Train on the problem and write the answers."""
    warnings.simplefilter("ignore")  # of torch: sparse tensors are a beta
    with np.load(sys.argv[1]) as stored:
        given: dict[str, Any] = dict(stored)
    sizes: dict[str, int] = json.loads(str(given["sizes"]))
    kinds: list[EdgeType] = [(first, name, second) for first, name, second in given["kinds"]]
    graphs, known = (
        Graphs(kinds, sizes, [torch.from_numpy(given[f"{part}_{n}"]) for n in range(len(kinds))])
        for part in ("train", "train+validation")
    )
    validation = torch.from_numpy(given["validation"])
    answers: dict[str, Any] = train(graphs, known, validation, json.loads(str(given["settings"])))
    np.savez(sys.argv[2], **answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
