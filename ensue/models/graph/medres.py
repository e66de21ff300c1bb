"""MEDRES: users and items of many graphs, with what they say themselves beside them.

Budhiraja, Hiranandani et al., "Rich-Item Recommendations for Rich-Users: Exploiting Dynamic and
Static Side Information", arXiv:2001.10495, and US patents 11,184,301 and 11,886,971: a second-order
graph convolution for each graph between entities, a perceptron that merges what the graphs say of
an entity, a dynamic component beside it, and a classifier over user and item, all trained together.
The text of the paper was not at hand; this is a reconstruction from its abstract and the claims.
Departures: the head may be a product of two vectors, so that indexes and exports work; several
rounds over all graphs may follow each other. A user is what his history says: in the graph of
interactions, his edges are the events that a request gives, and in a training step those before
the items to be found, which the step takes out of the graph. So a user never seen is folded in by
the same formula, with the mean of all users in place of a vector of his own; a new item likewise by
its features.
Shapes: B users, C items, I items, U users, E edges, D width, R width of a representation, S items
in a batch of histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.data.feature_schema import FeatureSchema, append_rows, count_rows
from ensue.data.features import FeatureColumn, FeatureTable
from ensue.data.graphs import INTERACTIONS, Graph, GraphSchema, interaction_graph
from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import ConfigError
from ensue.models.base import Model
from ensue.models.graph.entity_graphs import ITEM, USER, EntityGraphs
from ensue.models.graph.entity_tables import EntityTables, Neighbors, Tables, tables_of
from ensue.models.graph.medres_config import MedresConfig
from ensue.models.graph.medres_parts import HEADS, FeaturePart, Head, RecentPart
from ensue.nn.embedding import gather_rows, look_up
from ensue.nn.entity_rounds import Side
from ensue.nn.feature_rows import FeatureRows, rows_of
from ensue.nn.jagged import take_rows
from ensue.nn.propagation import Adjacency


class Encoded(NamedTuple):
    """Queries [B, D], and vectors [I + 1, D] and biases [I + 1] of the items they meet."""

    queries: Tensor
    items: Tensor
    biases: Tensor


class Medres(Model):
    """Graphs, features and histories of users and items, and a head.

    graphs: schemas of the graphs that it reads; `fill_graphs_` takes their edges for a training.
    item_vectors, item_biases: [I + 1, D] and [I + 1], what the head reads of each item; row 0 is
        zero. They are made when the model leaves training mode, and stored with it, as are
    tables: what answers need of the edges; and
    user_mean: [D], the mean vector of users, which stands for that of a user never seen.
    """

    Config = MedresConfig
    item_vectors: Tensor
    item_biases: Tensor
    user_mean: Tensor
    is_indexed: Tensor

    def __init__(
        self,
        config: MedresConfig,
        *,
        num_users: int,
        num_items: int,
        features: FeatureSchema | None = None,
        graphs: Sequence[GraphSchema] = (),
    ) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.features, self.graphs = features or FeatureSchema(), tuple(graphs)
        dim = config.dim
        self.entities = EntityGraphs(config, graphs, num_users=num_users, num_items=num_items)
        self.tables = EntityTables(self.entities, self.features)
        self.user_part = self._feature_part(self.features.users, num_users)
        self.item_part = self._feature_part(self.features.items, num_items)
        self.recent_part: RecentPart | None = None
        if config.reads_history:
            self.recent_part = RecentPart(
                num_items=num_items, places=config.recent, dim=dim, dropout=config.dropout
            )
        users = 1 + (self.user_part is not None) + (self.recent_part is not None)
        items = 1 + (self.item_part is not None)
        self.head: Head = HEADS[config.head](users * dim, items * dim, dim)
        self.register_buffer("item_vectors", torch.zeros(num_items + 1, dim))
        self.register_buffer("item_biases", torch.zeros(num_items + 1))
        self.register_buffer("user_mean", torch.zeros(dim))
        self.register_buffer("is_indexed", torch.zeros((), dtype=torch.bool))
        self._side_graphs: dict[str, Graph] = {}
        self._edges: list[Adjacency] | None = None  # of a model that is trained
        self._pairs = self._pair_offsets = torch.zeros(0, dtype=torch.long)

    def _feature_part(self, columns: Sequence[FeatureColumn], num_rows: int) -> FeaturePart | None:
        """Return what reads the features of users or items; None without any."""
        if not (self.config.reads_features and columns):
            return None
        config = self.config
        return FeaturePart(columns, num_rows=num_rows, dim=config.dim, dropout=config.dropout)

    def fill_features_(self, items: FeatureTable, users: FeatureTable) -> None:
        """Take the values of the features, in tables with the model's columns."""
        for part, table in ((self.item_part, items), (self.user_part, users)):
            if part is not None:
                part.values.fill_(table)

    def fill_graphs_(self, graphs: Mapping[str, Graph]) -> None:
        """Take the edges of the graphs for a training, by name."""
        self._side_graphs = dict(graphs)

    def observe_(self, histories: Histories) -> None:
        """Take the edges of the interactions, those of the training histories.

        Raises:
            ValueError: the edges of a graph are missing.
        """
        own = interaction_graph(histories, self.num_items)
        edges = {**self._side_graphs, INTERACTIONS: own}
        missing = [schema.name for schema in self.graphs if schema.name not in edges]
        if missing:
            raise ValueError(
                f"a training of MEDRES needs the edges of its graphs; {missing} of "
                "them were not given to fill_graphs_"
            )
        self._edges = self.entities.build(edges)
        self.tables.observe_(self.entities, edges)
        keys = own.sources.astype(np.int64) * (self.num_items + 1) + own.targets
        users = np.arange(self.num_users + 2)
        self._pairs = torch.from_numpy(keys)
        self._pair_offsets = torch.from_numpy(np.searchsorted(own.sources, users))

    def encode(self, batch: HistoryBatch) -> Encoded:
        """Return the queries of histories, and the vectors of all items.

        In training mode they are made from the edges, without those between a user of the batch
        and an item that is not in the history: these are to be found.

        Raises:
            RuntimeError: the model is in training mode and has no edges.
        """
        batch = batch.without_padding()
        if not self.training:
            tables = self.tables.stored()
            return Encoded(self._queries(batch, tables), self.item_vectors, self.item_biases)
        if self._edges is None:
            raise RuntimeError("a stored MEDRES has no edges to train on; make a new one")
        found = self.entities(self.entities.thin(self._edges_here(), self._hidden(batch)))
        vectors, biases = self._item_vectors(found.items)
        queries = self._queries(batch, tables_of(found))
        return Encoded(queries, vectors, biases)

    def match(self, encoded: Encoded, items: Tensor) -> Tensor:
        """Return scores [B, C] of items [C] for each history."""
        return self.head.match(encoded.queries, encoded.items[items], encoded.biases[items])

    def match_pairs(self, encoded: Encoded, candidates: Tensor) -> Tensor:
        """Return scores [B, C] of items [B, C] of each history."""
        vectors, biases = look_up(encoded.items, candidates), look_up(encoded.biases, candidates)
        return self.head.match_pairs(encoded.queries, vectors, biases)

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        queries, items, biases = self.encode(batch)
        return self.head.match(queries, items, biases)

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return what the head reads of each history [B, D], and lengths [B]."""
        batch = batch.without_padding()
        return self._queries(batch, self.tables.stored()), batch.offsets.diff()

    @property
    def scores_by_product(self) -> bool:
        """Whether scores are products of queries and item vectors."""
        return self.config.head != "mlp"

    def item_table(self) -> tuple[Tensor, Tensor]:
        """Return what queries are matched with: vectors [I + 1, D] and biases [I + 1]."""
        return self.item_vectors, self.item_biases

    def train(self, mode: bool = True) -> Medres:
        """Enter or leave training mode; leaving it makes what answers read of the edges."""
        super().train(mode)
        if self._edges is not None:
            if mode:
                self.is_indexed.fill_(False)
            elif not bool(self.is_indexed):
                self.index_()
        return self

    @torch.no_grad()
    def index_(self) -> None:
        """Make what answers read of the edges."""
        found = self.entities(self._edges_here())
        self.tables.fill_(tables_of(found))
        vectors, biases = self._item_vectors(found.items)
        self.item_vectors.copy_(vectors)
        self.item_biases.copy_(biases)
        users = self.entities.inputs()[USER]
        if users is not None:
            self.user_mean.copy_(users.mean(dim=0))
        self.is_indexed.fill_(True)

    @torch.no_grad()
    def with_items(self, added: FeatureTable) -> Medres:
        """Return the model with further items behind its own, known by their features alone.

        In place of a vector of their own they have the mean of all items. In a history they say
        nothing to the graph of interactions. Scores of the other items stay what they are.

        Raises:
            ConfigError: the model reads no features of items.
            ValueError: the columns are not those of the model.
        """
        if not self.features.items:
            raise ConfigError(
                "new items are described by features; this model reads none. Train it on a "
                "dataset prepared with --items."
            )
        count, table = count_rows(added), self.entities.inputs()[ITEM]
        model = Medres(
            self.config,
            num_users=self.num_users,
            num_items=self.num_items + count,
            features=self.features,
            graphs=[schema.grown("item", count) for schema in self.graphs],
        )
        parts = (self.item_part, self.user_part)
        items, users = (FeaturePart.table_of(part) for part in parts)
        if self.item_part is not None:
            items = append_rows(items, added)
        model.fill_features_(items, users)
        own, grown = self.state_dict(), model.state_dict()
        for name, value in own.items():
            if name.startswith("item_part.values"):
                own[name] = grown[name]
            elif value.shape != grown[name].shape:
                own[name] = torch.cat([value, value.new_zeros(count, *value.shape[1:])])
        mean = self.user_mean.new_zeros(self.config.dim) if table is None else table.mean(dim=0)
        if table is not None:
            own[f"entities.embeddings.{ITEM}"][-count:] = mean
        rows = rows_of(added, mean.device)
        neighbors = self.tables.feature_neighbors(ITEM, rows)
        sums = self.tables.row_sums(self.entities, ITEM, self.tables.stored(), neighbors)
        merged = self.entities.rows(ITEM, mean.expand(count, -1), sums)
        vectors, biases = self._head_of_items(merged, rows)
        own["item_vectors"][-count:], own["item_biases"][-count:] = vectors, biases
        model.load_state_dict(own, assign=True)
        return model.eval()

    def _edges_here(self) -> list[Adjacency]:
        """Return the edges on the device of the model."""
        assert self._edges is not None
        device = self.item_vectors.device
        if any(graph.to_a.values.device != device for graph in self._edges):
            self._edges = [graph.to(device) for graph in self._edges]
            self._pairs, self._pair_offsets = (
                tensor.to(device) for tensor in (self._pairs, self._pair_offsets)
            )
        return self._edges

    def _hidden(self, batch: HistoryBatch) -> Tensor | None:
        """Return which edges of the interactions [E] are of a user, but not in the history."""
        if not self.config.interactions:
            return None
        is_hidden = torch.zeros(len(self._pairs), dtype=torch.bool, device=batch.users.device)
        positions, _ = take_rows(self._pair_offsets, batch.users)
        is_hidden[positions] = True
        owners = batch.users.repeat_interleave(batch.offsets.diff(), output_size=len(batch.items))
        keys = owners * (self.num_items + 1) + batch.items
        places = torch.searchsorted(self._pairs, keys).clamp(max=max(0, len(self._pairs) - 1))
        is_edge = self._pairs[places] == keys
        is_hidden[places[is_edge]] = False
        return is_hidden

    def _item_vectors(self, merged: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head reads of all items, given what the graphs say of them [I, D]."""
        rows = None
        if self.item_part is not None:
            ids = torch.arange(1, self.num_items + 1, device=merged.device)
            rows = self.item_part.values.take(ids)
        vectors, biases = self._head_of_items(merged, rows)
        return F.pad(vectors, (0, 0, 1, 0)), F.pad(biases, (1, 0))

    def _head_of_items(self, merged: Tensor, rows: FeatureRows | None) -> tuple[Tensor, Tensor]:
        """Return what the head reads of items, given what their graphs [n, D] and features say."""
        parts = [merged]
        if self.item_part is not None:
            assert rows is not None
            parts.append(self.item_part(rows))
        vectors, biases = self.head.of_item(torch.cat(parts, dim=1))
        return vectors, biases

    def _queries(self, batch: HistoryBatch, tables: Tables) -> Tensor:
        """Return what the head reads of histories without padding [B, D]."""
        neighbors: dict[Side, Neighbors] = {}
        features = self._user_rows(batch)
        if batch.user_features is not None and features is not None:
            neighbors |= self.tables.feature_neighbors(USER, features)
        if self.tables.history_side is not None:
            neighbors[self.tables.history_side] = self._thinned(batch)
        sums = self.tables.row_sums(self.entities, USER, tables, neighbors, batch.users)
        parts = [self.entities.rows(USER, self._own(batch.users), sums)]
        if self.user_part is not None and features is not None:
            parts.append(self.user_part(features))
        if self.recent_part is not None:
            parts.append(self.recent_part(batch))
        return self.head.of_user(torch.cat(parts, dim=1))

    def _own(self, users: Tensor) -> Tensor:
        """Return the vectors [B, D] of users alone; the mean of all for one never seen."""
        table = self.entities.inputs()[USER]
        if table is None:
            return self.user_mean.expand(len(users), -1)  # it is zero
        own = gather_rows(table, (users - 1).clamp(min=0))
        return torch.where((users > 0)[:, None], own, self.user_mean)

    def _user_rows(self, batch: HistoryBatch) -> FeatureRows | None:
        """Return the features of the users of a batch, as far as they are known."""
        if batch.user_features is not None and self.features.users:
            return rows_of(batch.user_features, batch.users.device)
        return None if self.user_part is None else self.user_part.values.take(batch.users)

    def _thinned(self, batch: HistoryBatch) -> Neighbors:
        """Return the items of histories as neighbors, in training mode some of them."""
        rate = self.config.edge_dropout if self.training else 0.0
        items = batch.items
        if rate:
            noise = torch.rand(len(items), device=items.device)
            items = items.masked_fill(noise < rate, 0)
        return Neighbors(items, batch.offsets, 1 / (1 - rate))
