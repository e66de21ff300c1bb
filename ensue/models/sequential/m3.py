"""M3: a mixture of a tiny, a short and a long range of the history, weighted by gates.

Tang, Belletti, Jain, Chen, Beutel, Xu and Chi, "Towards Neural Mixture Recommender for Long Range
Dependent User Sequences", WWW 2019, arXiv:1902.08588. M3R is short="gru", M3C is short="conv".
Departures: what the paper leaves open (widths, layers of the networks before and behind the
encoders, the form of the attention) is one ReLU layer before, a ReLU and a linear layer behind,
one width everywhere, so that the tiny range is the event itself, and attention by plain products.
Features of the request are not read, so there is no gate that depends on them.
Shapes: B batch, T positions, D width, E encoders, I items. Item 0 is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ensue.models.sequence import SequenceConfig, SequenceModel
from ensue.nn.dropout import Dropout
from ensue.nn.embedding import gather_rows
from ensue.nn.gates import SigmoidGates
from ensue.nn.ranges import (
    AttentionRange,
    ConvolutionRange,
    RangeEncoder,
    RecurrentRange,
    TinyRange,
)

PART_NAMES = {"t": "tiny", "s": "short", "l": "long"}
State = tuple[Tensor, ...]  # what each encoder keeps of the past


class M3Config(SequenceConfig):
    """Settings of M3.

    parts: which of t (tiny), s (short), l (long) are used.
    short: the encoder of the short range, recurrent (M3R) or convolutional (M3C).
    conv_layers, conv_width: of "conv"; it reads 1 + conv_layers * (conv_width - 1) events.
    long_reads_last: whether the long range reads the last event too, as the tiny range does.
    gates: what opens the gates: the last event ("bottom"), the encodings ("top"), or nothing: they
        are 1 ("fixed").
    mixture: the gated encodings side by side, or their sum.
    output: whether items have vectors of their own in the output table, or "tied" ones, the same
        as in the input.
    dropout: of the events and of the encodings.
    """

    dim: int = Field(default=64, ge=1)
    parts: Literal["t", "s", "l", "ts", "tl", "sl", "tsl"] = "tsl"
    short: Literal["gru", "conv"] = "gru"
    conv_layers: int = Field(default=2, ge=1)
    conv_width: int = Field(default=3, ge=1)
    long_reads_last: bool = True
    gates: Literal["fixed", "bottom", "top"] = "bottom"
    mixture: Literal["concat", "sum"] = "concat"
    output: Literal["own", "tied"] = "own"
    dropout: float = Field(default=0.2, ge=0, lt=0.99)


class M3(SequenceModel):
    """Events, encoders of them side by side, gates, and a network on top; all history is read."""

    Config = M3Config

    def __init__(self, config: M3Config, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        dim, num_parts = config.dim, len(config.parts)
        self.item_embedding = _table(num_items, dim)
        self.own_output = _table(num_items, dim) if config.output == "own" else None
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1))
        self.input = nn.Linear(dim, dim)
        encoders = nn.ModuleList([_encoder(part, config) for part in config.parts])
        self.encoders = cast("Sequence[RangeEncoder]", encoders)
        self.gate: SigmoidGates | None = None
        if config.gates != "fixed":
            self.gate = SigmoidGates(dim * (num_parts if config.gates == "top" else 1), num_parts)
        self.hidden = nn.Linear(dim * (num_parts if config.mixture == "concat" else 1), dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = Dropout(config.dropout)

    @property
    def output_embedding(self) -> nn.Parameter:
        """The table [I + 1, D] that queries are matched with."""
        return self.item_embedding if self.own_output is None else self.own_output

    @property
    def output_bias(self) -> nn.Parameter:
        """The bias [I + 1] of the items' scores."""
        return self.item_bias

    @property
    def gate_names(self) -> list[str]:
        """What is behind each gate, in the order of `open_gates`."""
        return [PART_NAMES[part] for part in self.config.parts]

    def encode(self, items: Tensor) -> Tensor:
        """Return the query behind every event [B, T, D] of items [B, T]."""
        events = self._events(items)
        return self._mix(events, [encoder(events) for encoder in self.encoders])

    def encode_last(self, items: Tensor, last: Tensor) -> Tensor:
        """Return the query [B, D] behind the events `last` [B]: attention for one query alone."""
        events = self._events(items)
        encodings = [encoder.last(events, last) for encoder in self.encoders]
        return self._mix(events[torch.arange(len(items), device=items.device), last], encodings)

    def open_gates(self, items: Tensor) -> Tensor:
        """Return how far the gates are open behind every event [B, T, E], in the order of parts."""
        events = self._events(items)
        encodings = [encoder(events) for encoder in self.encoders]
        return self._gates(events, torch.stack(encodings, dim=-2))

    def start(self) -> State:
        """Return the state of a history without events."""
        return tuple(encoder.no_past() for encoder in self.encoders)

    def advance(self, state: State, item: int) -> tuple[Tensor, State]:
        """Return the query [D] behind the next event, and the state that has read it."""
        event = self._events(torch.tensor([item], device=self.item_bias.device))  # [1, D]
        steps = [
            encoder.step(event, past) for encoder, past in zip(self.encoders, state, strict=True)
        ]
        query = self._mix(event, [encoding for encoding, _ in steps])
        return query[0], tuple(past for _, past in steps)

    def _events(self, items: Tensor) -> Tensor:
        """Return the event vectors z [*items.shape, D]."""
        vectors = gather_rows(self.item_embedding, items, padding_idx=0)
        return self.dropout(torch.relu(self.input(vectors)))

    def _mix(self, events: Tensor, encodings: list[Tensor]) -> Tensor:
        """Return queries [..., D] for the last events [..., D] and the encodings, each [..., D]."""
        encoded = self.dropout(torch.stack(encodings, dim=-2))  # [..., E, D]
        gated = encoded * self._gates(events, encoded).unsqueeze(-1)
        mixed = gated.flatten(-2) if self.config.mixture == "concat" else gated.sum(dim=-2)
        return self.output(torch.relu(self.hidden(mixed)))

    def _gates(self, events: Tensor, encoded: Tensor) -> Tensor:
        """Return the gates [..., E] for last events [..., D] and encodings [..., E, D]."""
        if self.gate is None:
            return encoded.new_ones(encoded.shape[:-1])
        return self.gate(encoded.flatten(-2) if self.config.gates == "top" else events)


def _table(num_items: int, dim: int) -> nn.Parameter:
    """Return a new table of item vectors of length about 1; the one of padding is zero."""
    table = torch.randn(num_items + 1, dim) / dim**0.5
    table[0] = 0
    return nn.Parameter(table)


def _encoder(part: str, config: M3Config) -> nn.Module:
    """Return the encoder of a part."""
    if part == "t":
        return TinyRange()
    if part == "l":
        return AttentionRange(config.dim, includes_last=config.long_reads_last)
    if config.short == "gru":
        return RecurrentRange(config.dim)
    return ConvolutionRange(config.dim, num_layers=config.conv_layers, width=config.conv_width)
