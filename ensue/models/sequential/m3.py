"""M3: a mixture of a tiny, a short and a long range of the history, weighted by gates.

Tang, Belletti, Jain, Chen, Beutel, Xu and Chi, "Towards Neural Mixture Recommender for Long Range
Dependent User Sequences", WWW 2019, arXiv:1902.08588. M3R is short="gru", M3C is short="conv".
Departures: what the paper leaves open (widths, layers of the networks before and behind the
encoders, the form of the attention) is one ReLU layer before, a ReLU and a linear layer behind,
one width of all encoders, so that the tiny range is the event itself, and attention by plain
products; a wider layer behind, attention with learned projections and normalized encodings are
options of ours.
Context features stand beside the item vector (those of the event, c_in) and beside the mixture
(those of the request, c_out); the paper does not say how they are made, see nn.context.
Shapes: B batch, T positions, D width, E encoders, C context columns, F context features, I items.
Item 0 is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ensue.data.context import ContextSchema
from ensue.data.histories import Histories
from ensue.models.sequence import ContextConfig, SequenceModel
from ensue.nn.context import ContextFeatures
from ensue.nn.dropout import Dropout
from ensue.nn.embedding import gather_rows
from ensue.nn.gates import SigmoidGates
from ensue.nn.growing_items import GrowingItems
from ensue.nn.ranges import (
    AttentionRange,
    ConvolutionRange,
    RangeEncoder,
    RecurrentRange,
    TinyRange,
)
from ensue.nn.table_config import TableConfig

PART_NAMES = {"t": "tiny", "s": "short", "l": "long"}
State = tuple[Tensor, ...]  # what each encoder keeps of the past


class M3Config(ContextConfig):
    """Settings of M3.

    parts: which of t (tiny), s (short), l (long) are used.
    short: the encoder of the short range, recurrent (M3R) or convolutional (M3C).
    conv_layers, conv_width: of "conv"; it reads 1 + conv_layers * (conv_width - 1) events.
    long_reads_last: whether the long range reads the last event too, as the tiny range does.
    attention: whether the long range compares and adds up the events themselves ("plain"), or
        linear images of them ("projected").
    norm: layer normalization of the encodings, before the gates.
    gates: what opens the gates: the last event ("bottom"), the encodings ("top"), the context of
        the last event and of the request ("context"), or nothing: they are 1 ("fixed"). "auto" is
        "context" where there is any, and else "bottom".
    mixture: the gated encodings side by side, or their sum.
    output: whether items have vectors of their own in the output table, or "tied" ones, the same
        as in the input.
    hidden_dim: width of the ReLU layer behind the mixture; None is `dim`.
    dropout: of the events and of the encodings.
    """

    dim: int = Field(default=64, ge=1)
    hidden_dim: int | None = Field(default=None, ge=1)
    parts: Literal["t", "s", "l", "ts", "tl", "sl", "tsl"] = "tsl"
    short: Literal["gru", "conv"] = "gru"
    conv_layers: int = Field(default=2, ge=1)
    conv_width: int = Field(default=3, ge=1)
    long_reads_last: bool = True
    attention: Literal["plain", "projected"] = "plain"
    norm: bool = False
    gates: Literal["auto", "fixed", "bottom", "top", "context"] = "auto"
    mixture: Literal["concat", "sum"] = "concat"
    output: Literal["own", "tied"] = "own"
    dropout: float = Field(default=0.2, ge=0, lt=0.99)

    @model_validator(mode="after")
    def _context_opens_gates(self) -> M3Config:
        if self.gates == "context" and not (self.context_in or self.context_out):
            raise ValueError("gates 'context' need columns in context_in or context_out")
        return self

    @property
    def switch(self) -> str:
        """What opens the gates, "auto" resolved."""
        has_context = bool(self.context_in or self.context_out)
        return self.gates if self.gates != "auto" else "context" if has_context else "bottom"


class M3(SequenceModel):
    """Events, encoders of them side by side, gates, and a network on top; all history is read.

    Args:
        context: what the columns hold that the config names.
    """

    Config = M3Config

    def __init__(
        self,
        config: M3Config,
        *,
        num_users: int,
        num_items: int,
        context: ContextSchema | None = None,
    ) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.context = context or ContextSchema()
        named = [
            [column.name for column in side] for side in (self.context.event, self.context.request)
        ]
        if named != [config.context_in, config.context_out]:
            raise ValueError(
                f"M3 needs the columns that its config names, {config.context_in} and "
                f"{config.context_out}; got {named[0]} and {named[1]}"
            )
        dim, num_parts = config.dim, len(config.parts)
        self.event_features, self.request_features = (
            ContextFeatures([column.num_values for column in side], dim=config.context_dim)
            for side in (self.context.event, self.context.request)
        )
        self.item_embedding = _table(num_items, dim, config.growth)
        is_tied = config.output == "tied"
        self.own_output = None if is_tied else _table(num_items, dim, config.growth, place=1)
        self.item_bias: Any
        if config.growth is not None:
            self.item_bias = GrowingItems(num_items, None, config.growth, std=0.0)
        else:
            self.item_bias = nn.Parameter(torch.zeros(num_items + 1))
        num_event, num_request = self.event_features.width, self.request_features.width
        self.input = nn.Linear(dim + num_event, dim)
        encoders = nn.ModuleList([_encoder(part, config) for part in config.parts])
        self.encoders = cast("Sequence[RangeEncoder]", encoders)
        self.gate: SigmoidGates | None = None
        widths = {"bottom": dim, "top": dim * num_parts, "context": num_event + num_request}
        if config.switch != "fixed":
            self.gate = SigmoidGates(widths[config.switch], num_parts)
        num_mixed = dim * (num_parts if config.mixture == "concat" else 1)
        hidden_dim = config.hidden_dim or dim
        self.norm = nn.LayerNorm(dim) if config.norm else nn.Identity()
        self.hidden = nn.Linear(num_mixed + num_request, hidden_dim)
        self.output = nn.Linear(hidden_dim, dim)
        self.dropout = Dropout(config.dropout)
        self._keep_scale_()

    def _keep_scale_(self) -> None:
        """Start with weights through which vectors keep their length, so that no layer is silent.

        With the usual ones a query is some hundred times shorter than an item's vector.
        """
        for linear in (self.input, self.hidden):
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        nn.init.xavier_normal_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def output_embedding(self) -> Any:
        """The table [I + 1, D] that queries are matched with."""
        return self.item_embedding if self.own_output is None else self.own_output

    @property
    def output_bias(self) -> Any:
        """The bias [I + 1] of the items' scores."""
        return self.item_bias

    @property
    def gate_names(self) -> list[str]:
        """What is behind each gate, in the order of `open_gates`."""
        return [PART_NAMES[part] for part in self.config.parts]

    def observe_(self, histories: Histories) -> None:
        """Take note of the popularity of items, and of the scale of numeric context columns."""
        super().observe_(histories)
        for features, columns in (
            (self.event_features, histories.event_context),
            (self.request_features, histories.request_context),
        ):
            moments = [histories.mean_and_deviation(columns[n]) for n in features.numeric]
            features.standardize_(moments)

    def encode(
        self,
        items: Tensor,
        event_context: Tensor | None = None,
        request_context: Tensor | None = None,
    ) -> Tensor:
        """Return the query behind every event [B, T, D] of items [B, T].

        Args:
            event_context, request_context: [B, T, C], as `models.sequence` says.
        """
        events, of_event = self._events(items, event_context)
        of_request = self._features(self.request_features, request_context, items.shape)
        encodings = [encoder(events) for encoder in self.encoders]
        return self._mix(events, encodings, of_event, of_request)

    def encode_last(
        self,
        items: Tensor,
        last: Tensor,
        event_context: Tensor | None = None,
        request_context: Tensor | None = None,
    ) -> Tensor:
        """Return the query [B, D] behind the events `last` [B]: attention for one query alone.

        Args:
            request_context: [B, C], of the one request of each history.
        """
        events, of_event = self._events(items, event_context)
        of_request = self._features(self.request_features, request_context, last.shape)
        encodings = [encoder.last(events, last) for encoder in self.encoders]
        rows = torch.arange(items.shape[0], device=items.device)
        return self._mix(events[rows, last], encodings, of_event[rows, last], of_request)

    def open_gates(
        self,
        items: Tensor,
        event_context: Tensor | None = None,
        request_context: Tensor | None = None,
    ) -> Tensor:
        """Return how far the gates are open behind every event [B, T, E], in the order of parts."""
        events, of_event = self._events(items, event_context)
        of_request = self._features(self.request_features, request_context, items.shape)
        encodings = [encoder(events) for encoder in self.encoders]
        encoded = self.norm(torch.stack(encodings, dim=-2))
        return self._gates(events, encoded, of_event, of_request)

    def start(self) -> State:
        """Return the state of a history without events."""
        return tuple(encoder.no_past() for encoder in self.encoders)

    def advance(
        self,
        state: State,
        item: int,
        event_context: Tensor | None = None,
        request_context: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the query [D] behind the next event, and the state that has read it.

        Args:
            event_context, request_context: [C]. The state does not depend on the request.
        """
        items = torch.tensor([item], device=self.item_bias.device)
        event, of_event = self._events(items, event_context)  # [1, D], [1, F]
        of_request = self._features(self.request_features, request_context, items.shape)
        steps = [
            encoder.step(event, past) for encoder, past in zip(self.encoders, state, strict=True)
        ]
        query = self._mix(event, [encoding for encoding, _ in steps], of_event, of_request)
        return query[0], tuple(past for _, past in steps)

    def _events(self, items: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the event vectors z [*items.shape, D], and the features of their context."""
        features = self._features(self.event_features, context, items.shape)
        vectors = gather_rows(self.item_embedding, items, padding_idx=0)
        return self.dropout(torch.relu(self.input(_beside(vectors, features)))), features

    def _features(
        self, features: ContextFeatures, context: Tensor | None, shape: torch.Size
    ) -> Tensor:
        """Return the features [*shape, F] of a context [*shape, C], of which None is missing."""
        values = features.missing if context is None else context
        return features(values.expand(*shape, -1)).to(self.item_bias.dtype)

    def _mix(
        self, events: Tensor, encodings: list[Tensor], of_event: Tensor, of_request: Tensor
    ) -> Tensor:
        """Return queries [..., D] for the last events [..., D] and the encodings, each [..., D].

        Args:
            of_event, of_request: context features [..., F] of the last event and of the request.
        """
        encoded = self.dropout(self.norm(torch.stack(encodings, dim=-2)))  # [..., E, D]
        gated = encoded * self._gates(events, encoded, of_event, of_request).unsqueeze(-1)
        mixed = gated.flatten(-2) if self.config.mixture == "concat" else gated.sum(dim=-2)
        return self.output(torch.relu(self.hidden(_beside(mixed, of_request))))

    def _gates(
        self, events: Tensor, encoded: Tensor, of_event: Tensor, of_request: Tensor
    ) -> Tensor:
        """Return the gates [..., E] for last events [..., D] and encodings [..., E, D]."""
        if self.gate is None:
            return encoded.new_ones(encoded.shape[:-1])
        if self.config.switch == "context":
            return self.gate(torch.cat([of_event, of_request], dim=-1))
        return self.gate(encoded.flatten(-2) if self.config.switch == "top" else events)


def _beside(vectors: Tensor, features: Tensor) -> Tensor:
    """Return vectors [..., D] and features [..., F] side by side."""
    return torch.cat([vectors, features], dim=-1) if features.shape[-1] else vectors


def _table(num_items: int, dim: int, growth: TableConfig | None, *, place: int = 0) -> Any:
    """Return a new table of item vectors of length about 1; the one of padding is zero."""
    if growth is not None:
        return GrowingItems(num_items, dim, growth, std=dim**-0.5, place=place)
    table = torch.randn(num_items + 1, dim) / dim**0.5
    table[0] = 0
    return nn.Parameter(table)


def _encoder(part: str, config: M3Config) -> nn.Module:
    """Return the encoder of a part."""
    if part == "t":
        return TinyRange()
    if part == "l":
        return AttentionRange(
            config.dim,
            includes_last=config.long_reads_last,
            is_projected=config.attention == "projected",
        )
    if config.short == "gru":
        return RecurrentRange(config.dim)
    return ConvolutionRange(config.dim, num_layers=config.conv_layers, width=config.conv_width)
