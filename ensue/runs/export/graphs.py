"""Models as modules over padded histories: what `torch.export` makes a graph of.

A graph takes items [B, L] int64, dense ids, oldest first; 0 is padding, and may stand on either
side. It gives scores [B, I + 1] float32, of which column 0 (padding) is -inf; or, with `k`, the k
best items that are not in the row, best first, and their scores. The layers are the model's own.
Shapes: B batch, L length, D width, C context columns, I items, U users, k answers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.errors import UsageError
from ensue.models.base import Model
from ensue.models.baselines.bpr import BPR
from ensue.models.graph.lightgcn import LightGCN
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.caser import Caser
from ensue.nn.growing_items import all_rows
from ensue.runs.export.padded import is_recent, last_window, take_recent
from ensue.runs.export.static import static_copy

BATCH, LENGTH = "batch", "length"  # names of sizes that may be any


class Signature(NamedTuple):
    """A tensor that goes into a graph, or comes out of it; sizes are numbers, or names."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


ITEMS = Signature("items", "int64", (BATCH, LENGTH))
USERS = Signature("users", "int64", (BATCH,))


class ScoreGraph(nn.Module):
    """Base of all graphs of scores.

    inputs: what `forward` takes, in this order, by these names. num_items: I.

    Args:
        k: items that are answered with, those of the row left out; None gives all scores.
    """

    first_column: Tensor

    def __init__(self, model: Model, *inputs: Signature, k: int | None) -> None:
        super().__init__()
        self.inputs, self.k = (ITEMS, *inputs), k
        self.num_items = model.num_items
        if k is not None and not 1 <= k <= self.num_items:
            raise UsageError(
                f"an export with k needs 1 <= k <= {self.num_items}, the items there are; got {k}."
            )
        hidden = torch.zeros(self.num_items + 1)
        hidden[0] = -torch.inf
        self.register_buffer("first_column", hidden)

    @property
    def outputs(self) -> tuple[Signature, ...]:
        """What `forward` returns, in this order."""
        if self.k is None:
            return (Signature("scores", "float32", (BATCH, self.num_items + 1)),)
        return (
            Signature("best_items", "int64", (BATCH, self.k)),
            Signature("best_scores", "float32", (BATCH, self.k)),
        )

    def answer(self, items: Tensor, scores: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return scores [B, I + 1]; or ids and scores [B, k], 0 and -inf where no more are left."""
        scores = scores + self.first_column
        if self.k is None:
            return scores
        scores = scores.scatter(1, items.clamp(min=0), -torch.inf)
        best, ids = torch.topk(scores, self.k, dim=1)
        return torch.where(best == -torch.inf, 0, ids), best


class SequenceGraph(ScoreGraph):
    """SASRec, GRU4Rec, M3, and the scorer of Deep Retrieval."""

    def __init__(self, model: SequenceModel, *, k: int | None) -> None:
        context = model.context
        inputs = []
        if context.event:
            sizes = BATCH, LENGTH, len(context.event)
            inputs.append(Signature("event_context", "float64", sizes))
        if context.request:
            inputs.append(Signature("request_context", "float64", (BATCH, len(context.request))))
        super().__init__(model, *inputs, k=k)
        self.model = model

    def forward(
        self,
        items: Tensor,
        event_context: Tensor | None = None,
        request_context: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the answer to items [B, L].

        Args:
            event_context: [B, L, C] float64 beside the items.
            request_context: [B, C] float64, of the request.
        """
        model = self.model
        recent, index, lengths = take_recent(items, model.max_len)
        context: tuple[Tensor | None, ...] = ()
        if not model.context.is_empty:
            if event_context is not None:
                index = index[..., None].expand(-1, -1, event_context.shape[2])
                event_context = event_context.gather(1, index)
            context = event_context, request_context
        queries = model.encode_last(recent, (lengths - 1).clamp(min=0), *context)
        scores = torch.where((lengths == 0)[:, None], model.log_popularity, model.match(queries))
        return self.answer(items, scores)


class CaserGraph(ScoreGraph):
    """Caser; without the part p, users are no input."""

    user_rows: Tensor | None

    def __init__(self, model: Caser, *, k: int | None) -> None:
        reads_users = "p" in model.config.parts
        super().__init__(model, *([USERS] if reads_users else []), k=k)
        self.model = model
        rows = None
        if reads_users:
            rows = torch.cat([model.unknown_user()[None], all_rows(model.user_embedding)])
        self.register_buffer("user_rows", rows)

    def forward(self, items: Tensor, users: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the answer to items [B, L] and users [B], 0 where unknown."""
        vectors = self.model.sequence_vector(last_window(items, self.model.config.window))
        of_users = torch.zeros_like(vectors)
        if self.user_rows is not None and users is not None:
            of_users = F.embedding(users.clamp(min=0), self.user_rows)
        return self.answer(items, self.model.match(torch.cat([vectors, of_users], dim=1)))


class BPRGraph(ScoreGraph):
    """BPR-MF: the items count for users that are not known."""

    mean_length: Tensor

    def __init__(self, model: BPR, *, k: int | None) -> None:
        super().__init__(model, USERS, k=k)
        self.model = model
        self.register_buffer("mean_length", model.mean_length())

    def forward(self, items: Tensor, users: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the answer to items [B, L] and users [B], 0 where unknown."""
        table, bias = self.model.item_table()
        is_real = is_recent(items, None)
        sums = (F.embedding(items.clamp(min=0), table) * is_real[..., None]).sum(dim=1)
        unknown = self.model.user_like(sums, self.mean_length)
        known = F.embedding((users - 1).clamp(min=0), self.model.user_embedding)
        queries = torch.where((users > 0)[:, None], known, unknown)
        return self.answer(items, torch.addmm(bias, queries, table.T))


class LightGCNGraph(ScoreGraph):
    """LightGCN: each distinct item counts once, and users who are known have a part of their own.

    user_rows: [U + 1, D], that part.
    """

    user_rows: Tensor

    def __init__(self, model: LightGCN, *, k: int | None) -> None:
        super().__init__(model, USERS, k=k)
        self.model = model
        self.register_buffer("user_rows", model.own_part(torch.arange(model.num_users + 1)))

    def forward(self, items: Tensor, users: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the answer to items [B, L] and users [B], 0 where unknown."""
        is_real = (items > 0).to(self.user_rows.dtype)
        bags = is_real.new_zeros(items.shape[0], self.num_items + 1)
        bags = bags.scatter_reduce(1, items.clamp(min=0), is_real, "amax")
        counts = bags.sum(dim=1, keepdim=True).clamp(min=1)
        given = torch.mm(bags, self.model.item_shares) * counts.rsqrt()
        own = F.embedding(users.clamp(min=0), self.user_rows)
        queries = self.model.as_queries(given + own)
        return self.answer(items, torch.mm(queries, self.model.item_vectors.T))


class TwoTowerGraph(ScoreGraph):
    """Two towers: what is read of each item and of each user is computed once.

    item_rows: [I + 1, D], what is read of an item of a history. user_rows: [U + 1, D], the features
    of the users.
    """

    item_vectors: Tensor
    log_popularity: Tensor
    item_rows: Tensor
    user_rows: Tensor | None

    def __init__(self, model: TwoTower, *, k: int | None) -> None:
        reads_users = bool(model.features.users)
        super().__init__(model, *([USERS] if reads_users else []), k=k)
        self.tower, self.max_len = model.query_tower, model.max_len
        self.register_buffer("item_vectors", model.item_table()[0])
        self.register_buffer("log_popularity", model.log_popularity)
        # The history of one item is the mean of what is read of that item alone.
        items = torch.arange(1, model.num_items + 1)
        parts = model.history_parts(items, torch.arange(len(items) + 1))
        rows = torch.cat([torch.zeros(len(items), 0), *parts], dim=1)
        self.register_buffer("item_rows", F.pad(rows, (0, 0, 1, 0)))
        of_users = None
        if reads_users:
            users = torch.arange(model.num_users + 1)
            of_users = torch.cat(model.user_embedding(users, model.user_values.take(users)), dim=1)
        self.register_buffer("user_rows", of_users)

    def forward(self, items: Tensor, users: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the answer to items [B, L] and users [B], 0 where unknown."""
        is_read = is_recent(items, self.max_len)
        counts = is_read.sum(dim=1)
        rows = F.embedding(items.clamp(min=0), self.item_rows) * is_read[..., None]
        query = rows.sum(dim=1) / counts.clamp(min=1)[:, None]
        is_known = counts > 0
        if self.user_rows is not None and users is not None:
            query = torch.cat([query, F.embedding(users.clamp(min=0), self.user_rows)], dim=1)
            is_known = is_known | (users > 0)
        scores = torch.mm(self.tower(query), self.item_vectors.T)
        return self.answer(items, torch.where(is_known[:, None], scores, self.log_popularity))


def make_graph(model: Model, *, name: str, k: int | None) -> ScoreGraph:
    """Return the graph of a model, in evaluation mode.

    Args:
        name: of the model, for the error.
        k: as in `ScoreGraph`.

    Raises:
        UsageError: no graph is made of models of its kind, or k does not fit.
    """
    with torch.no_grad():
        copied = static_copy(model)
        if isinstance(copied, SequenceModel):
            return SequenceGraph(copied, k=k).eval()
        if isinstance(copied, Caser):
            return CaserGraph(copied, k=k).eval()
        if isinstance(copied, BPR):
            return BPRGraph(copied, k=k).eval()
        if isinstance(copied, LightGCN):
            return LightGCNGraph(copied, k=k).eval()
        if isinstance(copied, TwoTower):
            return TwoTowerGraph(copied, k=k).eval()
    raise UsageError(
        "a graph is made of caser, sasrec, gru4rec, m3, bpr, lightgcn, two_tower and "
        f"deep_retrieval; {name} has none. Use format npz."
    )
