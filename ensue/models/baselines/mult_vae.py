"""Mult-VAE: a variational autoencoder of the bag of items of a user.

Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering", WWW
2018, arXiv:1802.05814. The distinct items of a history, each 1 / sqrt(n), go through tanh layers to
a normal distribution of a latent vector, and that through tanh layers to a softmax of all items.
It reads histories alone, so a user never seen in training is answered as any other.
Departures: an empty history is answered from the mean of the prior, 0; biases start at 0. The
first layer sums the rows of the items that there are, the last is made in blocks: no [B, I] input.
Shapes: B batch, S items in a batch of histories, H width of a hidden layer, Z width of the latent
vectors, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.histories import HistoryBatch
from ensue.models.base import Model
from ensue.nn.bags import bag_sum
from ensue.nn.dropout import Dropout
from ensue.nn.jagged import last_occurrences, row_numbers


class MultVAEConfig(Config):
    """Settings of Mult-VAE.

    dim: Z. hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    dropout: of the items that the encoder reads.
    max_beta: largest weight of the divergence from the prior. anneal_steps: the weight after n
        steps is n / anneal_steps, up to max_beta; 0 is max_beta from the start.
    loss: "sum" over the items of a user, or their "mean", with which all users count the same.
    """

    dim: int = Field(default=200, ge=1)
    hidden: list[PositiveInt] = Field(default_factory=lambda: [600], min_length=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    max_beta: float = Field(default=0.2, ge=0)
    anneal_steps: int = Field(default=200_000, ge=0)
    loss: Literal["sum", "mean"] = "sum"

    def beta(self, num_steps: int) -> float:
        """Return the weight of the divergence after so many steps."""
        if self.anneal_steps == 0:
            return self.max_beta
        return min(self.max_beta, num_steps / self.anneal_steps)


class MultVAE(Model):
    """`input_embedding` [I + 1, H] is the first layer, `output_embedding` [I + 1, H] the last."""

    Config = MultVAEConfig

    def __init__(self, config: MultVAEConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        first, last = config.hidden[0], config.hidden[-1]
        self.input_embedding = nn.Parameter(torch.empty(num_items + 1, first))
        self.input_bias = nn.Parameter(torch.zeros(first))
        self.dropout = Dropout(config.dropout)
        self.encoder = tanh_layers(config.hidden)
        self.latent = nn.Linear(last, 2 * config.dim)
        self.decoder = tanh_layers([config.dim, *config.hidden[::-1]])
        self.output_embedding = nn.Parameter(torch.empty(num_items + 1, first))
        self.output_bias = nn.Parameter(torch.zeros(num_items + 1))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.xavier_normal_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def encode(self, items: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log of the variance of the latent vectors [B, Z].

        Args:
            items: [S] ids, distinct in each history; offsets: [B + 1].
        """
        lengths = offsets.diff()
        amounts = lengths.clamp(min=1).to(self.input_bias.dtype).rsqrt()
        amounts = self.dropout(amounts.repeat_interleave(lengths, output_size=items.shape[0]))
        hidden = torch.tanh(
            bag_sum(self.input_embedding, items, offsets, amounts) + self.input_bias
        )
        mean, log_variance = self.latent(self.encoder(hidden)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """Return what the last layer reads [B, H], given latent vectors [B, Z]."""
        queries: Tensor = self.decoder(latent)
        return queries

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return logits [B, I + 1]; column 0 (padding) has no meaning."""
        queries, _ = self.queries(batch)
        return torch.addmm(self.output_bias, queries, self.output_embedding.T)

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return what the last layer reads [B, H], and the numbers of distinct items [B]."""
        batch = batch.without_padding()
        rows = row_numbers(batch.offsets)
        distinct = last_occurrences(rows, batch.items, self.num_items + 1)
        lengths = torch.zeros_like(batch.users).index_add_(
            0, rows[distinct], torch.ones_like(distinct)
        )
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        mean, _ = self.encode(batch.items[distinct], offsets)
        return self.decode(mean * (lengths > 0)[:, None]), lengths

    def item_table(self) -> tuple[Tensor, Tensor]:
        """Return what queries are matched with: vectors [I + 1, H] and biases [I + 1]."""
        return self.output_embedding, self.output_bias


def tanh_layers(widths: Sequence[int]) -> nn.Sequential:
    """Return layers from each width to the next, each with tanh behind it."""
    pairs = ((nn.Linear(one, other), nn.Tanh()) for one, other in pairwise(widths))
    return nn.Sequential(*(module for pair in pairs for module in pair))
