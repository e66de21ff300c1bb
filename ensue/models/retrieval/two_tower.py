"""Two towers: a query from a history and the user's features, an item from its id and features.

Both are vectors of length 1, matched by their cosine. Yi et al., "Sampling-Bias-Corrected Neural
Modeling for Large Corpus Item Recommendations", RecSys 2019 (towers, batch softmax, logQ); Yao et
al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021, arXiv:2007.12865
(two masked views of items told apart from other items).
Departures: a query is made of a history, the mean of the inputs of its items, where the papers have
one item (max_len=1) or more features of a session; several targets may share a query; items that
are wrong negatives because the user has them are left out; the temperature of the views is a
setting of its own. Losses are in `losses.contrastive`, the sampling in `training.two_tower`.
Shapes: B batch, S items in a batch of histories, n rows, D width of a vector, D_h and D_i widths of
the inputs of a history and of an item, F features of an item, I items.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ensue.data.feature_schema import FeatureSchema, append_rows, count_rows
from ensue.data.features import FeatureTable
from ensue.data.frequency import StreamingFrequency
from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import ConfigError
from ensue.models.base import Model
from ensue.models.retrieval.two_tower_config import TwoTowerConfig
from ensue.nn.bags import bag_mean
from ensue.nn.feature_rows import FeatureRows, FeatureValues, rows_of
from ensue.nn.towers import FeatureEmbedding, Sizes, Tower

INDEXED_ROWS = 4096  # items whose vectors are made at a time


class TwoTower(Model):
    """Embeddings of items, of histories and of users, and a tower behind each side.

    item_vectors: [I + 1, D], what the item tower gives for each item; row 0 is zero. It is made
        when the model leaves training mode, and stored with it.
    log_popularity: [I + 1], log of each item's share of the training events, the answer to a
        request of which nothing is known.
    features: the columns that it reads; `fill_features_` takes their values.
    """

    Config = TwoTowerConfig
    item_vectors: Tensor
    is_indexed: Tensor
    log_popularity: Tensor

    def __init__(
        self,
        config: TwoTowerConfig,
        *,
        num_users: int,
        num_items: int,
        features: FeatureSchema | None = None,
    ) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.features = features or FeatureSchema()
        self.max_len = config.max_len
        columns = self.features.items
        self.item_values = FeatureValues(columns, num_rows=num_items)
        self.user_values = FeatureValues(self.features.users, num_rows=num_users)
        with_ids = Sizes(num_items + 1, config.id_dim, config.feature_dim)
        without_ids = with_ids._replace(id_dim=0)
        pooling = config.pooling
        item_sizes = with_ids if config.ids == "both" else without_ids
        self.item_embedding = FeatureEmbedding(columns, sizes=item_sizes, pooling=pooling)
        if not self.item_embedding.names:
            raise ConfigError(
                f"items need an id or features to be told apart; ids is {config.ids!r} and the "
                "dataset has no item features. Prepare it with --items, or set ids=both."
            )
        # None: the table of the item side is read.
        self.history_ids: FeatureEmbedding | None = None
        if config.ids == "query" or (config.ids == "both" and not config.share_tables):
            self.history_ids = FeatureEmbedding((), sizes=with_ids)
        self.history_features: FeatureEmbedding | None = None
        if config.query == "items" and columns and not config.share_tables:
            own = FeatureEmbedding(columns, sizes=without_ids, pooling=pooling)
            self.history_features = own
        self.user_embedding = FeatureEmbedding(
            self.features.users, sizes=without_ids, pooling=pooling
        )
        query_width = self._history_width() + self.user_embedding.width
        self.query_tower = Tower(query_width, config.hidden, config.dim)
        self.item_tower = Tower(self.item_embedding.width, config.hidden, config.dim)
        self.frequency: StreamingFrequency | None = None
        if config.logq == "streaming":
            self.frequency = StreamingFrequency(num_items + 1, rate=config.logq_rate)
        self.register_buffer("item_vectors", torch.zeros(num_items + 1, config.dim))
        self.register_buffer("is_indexed", torch.zeros((), dtype=torch.bool))
        self.register_buffer("log_popularity", torch.zeros(num_items + 1))

    def fill_features_(self, items: FeatureTable, users: FeatureTable) -> None:
        """Take the values of the features, in tables with the model's columns."""
        self.item_values.fill_(items)
        self.user_values.fill_(users)

    def observe_(self, histories: Histories) -> None:
        """Take note of how popular each item is in the training histories."""
        counts = histories.item_counts(self.num_items) + 1.0
        self.log_popularity.copy_(torch.from_numpy(np.log(counts / counts[1:].sum())))

    @property
    def output_embedding(self) -> Tensor:
        """The vectors of the items [I + 1, D], as of the last time that the model left training."""
        return self.item_vectors

    @property
    def output_bias(self) -> None:
        """A bias of the items' scores, which this model has not."""
        return None

    def item_table(self) -> tuple[Tensor, None]:
        """Return what queries are matched with: the vectors of the items, and no biases."""
        return self.item_vectors, None

    def item_input(self, items: Tensor, *, feature_dropout: float = 0.0) -> Tensor:
        """Return what the item tower reads of items [n], [n, D_i].

        Args:
            feature_dropout: probability that a feature of an item is masked.
        """
        slots = self.item_embedding(items, self.item_values.take(items))
        if not feature_dropout:
            return self.item_embedding.join(slots)
        shape = (len(items), len(slots))
        is_masked = torch.rand(shape, device=items.device) < feature_dropout
        return self.item_embedding.join(slots, is_masked)

    def views(self, items: Tensor, is_masked: Tensor, *, drop: float) -> tuple[Tensor, Tensor]:
        """Return what the item tower reads of two views of items [n], twice [n, D_i].

        The features are looked up once; the values of bags are left out apart.

        Args:
            is_masked: [2, F], what each view hides.
            drop: probability that a value of a bag is left out.
        """
        rows = self.item_values.take(items)
        slots = self.item_embedding(items, rows)
        first, second = (
            self.item_embedding.join(
                self.item_embedding.redraw_bags(slots, rows, drop=drop), is_masked[view]
            )
            for view in range(2)
        )
        return first, second

    def encode(self, items: Tensor, offsets: Tensor, users: FeatureRows) -> Tensor:
        """Return the queries [B, D] of histories items [S], offsets [B + 1], and users' features.

        A history without items counts as zero.
        """
        parts = self.history_parts(items, offsets)
        users_slots = self.user_embedding(items, users)
        return self.query_tower(torch.cat([*parts, *users_slots], dim=1))

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return the query of each history [B, D], and lengths [B]; zero where nothing is known."""
        batch = batch.without_padding().last(self.max_len)
        queries = self.encode(batch.items, batch.offsets, self._users_of(batch))
        lengths = batch.offsets.diff()
        return queries * self._is_known(batch, lengths)[:, None], lengths

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1]; column 0 (padding) has no meaning."""
        queries, lengths = self.queries(batch)
        scores = self.match(queries)
        is_known = self._is_known(batch, lengths)
        if not bool(is_known.all()):
            scores[~is_known] = self.log_popularity
        return scores

    def match(self, queries: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the scores [B, I + 1] of all items for queries [B, D]; fills `out`, if given."""
        return torch.mm(queries, self.output_embedding.T, out=out)

    def train(self, mode: bool = True) -> TwoTower:
        """Enter or leave training mode; leaving it makes the vectors of the items."""
        super().train(mode)
        if mode:
            self.is_indexed.fill_(False)
        elif not bool(self.is_indexed):
            self.index_items_()
        return self

    @torch.no_grad()
    def index_items_(self) -> None:
        """Make the vectors of all items."""
        items = torch.arange(1, self.num_items + 1, device=self.item_vectors.device)
        for block in torch.split(items, INDEXED_ROWS):
            self.item_vectors[block] = self.item_tower(self.item_input(block))
        self.is_indexed.fill_(True)

    @torch.no_grad()
    def with_items(self, added: FeatureTable) -> TwoTower:
        """Return the model with further items behind its own, known by their features alone.

        In place of an id they have the vector that stands for masked ids. Scores and vectors of the
        other items stay what they are.

        Raises:
            ConfigError: the model reads no features of items.
            ValueError: the columns are not those of the model.
        """
        if not self.features.items:
            raise ConfigError(
                "new items are described by features; this model reads none. Train it on a "
                "dataset prepared with --items."
            )
        count = count_rows(added)
        model = TwoTower(
            self.config,
            num_users=self.num_users,
            num_items=self.num_items + count,
            features=self.features,
        )
        table = append_rows(self.item_values.table(), added)
        model.fill_features_(table, self.user_values.table())
        states = model.state_dict()
        own = self.state_dict()
        for name in ("item_vectors", "log_popularity"):
            own[name] = torch.cat([own[name], own[name].new_zeros(count, *own[name].shape[1:])])
        own["log_popularity"][-count:] = self.log_popularity[1:].min()
        for side in ("item_embedding", "history_ids"):
            ids = own.get(f"{side}.ids")
            if ids is not None:
                masked = own[f"{side}.defaults.0"].expand(count, -1)
                own[f"{side}.ids"] = torch.cat([ids, masked])
        own |= {name: value for name, value in states.items() if name.startswith("item_values.")}
        own |= {name: value for name, value in states.items() if name.startswith("frequency.")}
        model.load_state_dict(own, assign=True)
        model.is_indexed = torch.zeros_like(self.is_indexed)
        return model.eval()

    def _history_width(self) -> int:
        """Width D_h of what the query tower reads of a history."""
        width = 0 if self.config.ids == "none" else self.config.id_dim
        if self.config.query == "items":
            width += len(self.features.items) * self.config.feature_dim
        return width

    def history_parts(self, items: Tensor, offsets: Tensor) -> list[Tensor]:
        """Return the means over the items of each history of what is read of them."""
        parts = []
        if self.config.ids != "none":
            table = (self.history_ids or self.item_embedding).ids
            assert table is not None
            parts.append(bag_mean(table, items, offsets))
        if self.config.query == "items" and self.features.items:
            # A batch has an item many times, and its bags are long: each is embedded once.
            distinct, places = torch.unique(items, return_inverse=True)
            embedding = self.history_features or self.item_embedding
            slots = embedding(distinct, self.item_values.take(distinct))
            own = torch.cat(slots[-len(self.features.items) :], dim=1)
            parts.append(bag_mean(own, places, offsets))
        return parts

    def _users_of(self, batch: HistoryBatch) -> FeatureRows:
        """Return the features of the users of a batch."""
        if batch.user_features is not None:
            return rows_of(batch.user_features, batch.users.device)
        return self.user_values.take(batch.users)

    def _is_known(self, batch: HistoryBatch, lengths: Tensor) -> Tensor:
        """Return of which requests [B] there is a history or features of the user."""
        is_known = lengths > 0
        if self.features.users:
            has_features = batch.user_features is not None
            is_known = is_known | (batch.users > 0) | has_features
        return is_known
