"""What M3 reads of a sequence: the last events in order, and all events whatever their order.

Tang et al., "Towards Neural Mixture Recommender for Long Range Dependent User Sequences", WWW 2019,
arXiv:1902.08588. Each encoder gives one vector for every position, of the positions up to it, and
takes a new position as one step from what it keeps of the earlier ones.
Shapes: B batch, T positions, D width. Sequences start at position 0 and are padded behind their
end, so real positions never read padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RangeEncoder(Protocol):
    """An encoder of sequences; what it keeps of the past is one tensor."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D]; position t depends on positions 0..t alone."""

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """Return the vectors [B, D] at the positions `last` [B] alone."""

    def no_past(self) -> Tensor:
        """Return what is kept of a sequence that has not begun."""

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vector [1, D] of the next position x [1, D], and what is kept now."""


class TinyRange(nn.Module):
    """The last event itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, T, D]."""
        return x

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """Return x at the positions `last` [B]."""
        return _at(x, last)

    def no_past(self) -> Tensor:
        """Return nothing: the past is not read."""
        return torch.zeros(0)

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return x [1, D]; nothing is kept."""
        return x, past


class RecurrentRange(nn.Module):
    """The short range in order, by a gated recurrent network."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden vectors [B, T, D] of x [B, T, D]."""
        return cast(Tensor, self.gru(x)[0])

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """Return the hidden vectors [B, D] at the positions `last` [B]."""
        return _at(self.forward(x), last)

    def no_past(self) -> Tensor:
        """Return the first hidden vector [1, D], zero."""
        return next(self.gru.parameters()).new_zeros(1, self.gru.hidden_size)

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next hidden vector [1, D], twice: it is all that is kept."""
        hidden, _ = self.gru(x[None], past[None])
        return hidden[0], hidden[0]


class ConvolutionRange(nn.Module):
    """The short range in order, by causal convolutions with ReLU, one behind the other.

    What is left of the first position is zero, in every layer.
    """

    def __init__(self, dim: int, *, num_layers: int, width: int) -> None:
        super().__init__()
        self.width = width
        layers = [nn.Conv1d(dim, dim, width) for _ in range(num_layers)]
        self.layers = cast("Sequence[nn.Conv1d]", nn.ModuleList(layers))

    @property
    def num_read(self) -> int:
        """Number of positions that an output depends on."""
        return 1 + len(self.layers) * (self.width - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D]."""
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = torch.relu(layer(F.pad(x, (self.width - 1, 0))))
        return x.transpose(1, 2)

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """Return the outputs [B, D] at the positions `last` [B]."""
        return _at(self.forward(x), last)

    def no_past(self) -> Tensor:
        """Return the positions read so far [n, D]: none."""
        return self.layers[0].weight.new_zeros(0, self.layers[0].in_channels)

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next output [1, D], and the positions that a later one reads."""
        past = torch.cat([past, x])[-self.num_read :]
        return self.forward(past[None])[0, -1:], past


class AttentionRange(nn.Module):
    """The long range whatever its order: the events, weighted by their likeness to the last one.

    There are no positions. Query, keys and values are the events themselves, and nothing is learned
    here; or, projected, linear images of them.

    Args:
        includes_last: whether the last event is among those that are read; without it the first
            position reads nothing and has the vector zero.
    """

    def __init__(self, dim: int, *, includes_last: bool, is_projected: bool = False) -> None:
        super().__init__()
        self.dim, self.includes_last = dim, includes_last
        self.query, self.key, self.value = (
            nn.Linear(dim, dim, bias=False) if is_projected else nn.Identity() for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D]."""
        if self.includes_last:
            queries, keys, values = self.query(x), self.key(x), self.value(x)
            return F.scaled_dot_product_attention(
                queries[:, None], keys[:, None], values[:, None], is_causal=True
            )[:, 0]
        length = x.shape[1]
        is_read = torch.ones(length, length, dtype=torch.bool, device=x.device).tril(-1)
        return self._attend(x, x, is_read[None])

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """Return the vectors [B, D] at the positions `last` [B]: one row of weights for each."""
        positions = torch.arange(x.shape[1], device=x.device)
        is_read = positions < last[:, None] + int(self.includes_last)
        return self._attend(_at(x, last)[:, None], x, is_read[:, None])[:, 0]

    def no_past(self) -> Tensor:
        """Return the events read so far [n, D]: none."""
        return torch.zeros(0, self.dim)

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vector [1, D] of the next event, and all events."""
        after = torch.cat([past.to(x), x])
        read = after if self.includes_last else after[:-1]
        if len(read) == 0:
            return torch.zeros_like(x), after
        weights = torch.softmax(self.query(x) @ self.key(read).T / self.dim**0.5, dim=1)
        return weights @ self.value(read), after

    def _attend(self, last: Tensor, x: Tensor, is_read: Tensor) -> Tensor:
        """Return [B, Q, D]: events `last` [B, Q, D] over those of x [B, T, D] that is_read names.

        An event that reads nothing has the result zero.

        Args:
            is_read: [B, Q, T], or [1, Q, T] for all.
        """
        is_some = is_read.any(dim=2, keepdim=True)
        mask = is_read | ~is_some  # where nothing is read, a softmax over nothing would be NaN
        read = F.scaled_dot_product_attention(
            self.query(last)[:, None],
            self.key(x)[:, None],
            self.value(x)[:, None],
            attn_mask=mask[:, None],
        )
        return read[:, 0] * is_some


def _at(x: Tensor, last: Tensor) -> Tensor:
    """Return x [B, T, D] at the positions `last` [B]."""
    return x[torch.arange(x.shape[0], device=x.device), last]
