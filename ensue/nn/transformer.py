"""A causal transformer: every position reads itself and what came before it.

Vaswani et al., NeurIPS 2017, arXiv:1706.03762, with normalization before each part (Xiong et al.,
ICML 2020, arXiv:2002.04745) and after the last block.
Departures: no dropout on the attention weights, so that they need never be stored.
Shapes: B batch, T positions, D width, H heads, E = D / H width of a head. Sequences start at
position 0 and are padded behind their end, so real positions never read padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.nn.dropout import Dropout


@dataclass(frozen=True)
class KeyValues:
    """What a block remembers of the positions before: keys and values [B, H, t, E]."""

    keys: Tensor
    values: Tensor

    def append(self, keys: Tensor, values: Tensor) -> KeyValues:
        """Return this with the next positions [B, H, n, E] behind the old ones."""
        return KeyValues(
            torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        )


class CausalSelfAttention(nn.Module):
    """Scaled dot-product attention over the positions up to one's own.

    Args:
        rotary: turn queries and keys by an angle that grows with their position (Su et al.,
            "RoFormer", 2021, arXiv:2104.09864), so that attention knows how far apart two are.
    """

    def __init__(self, dim: int, *, num_heads: int, rotary: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"CausalSelfAttention needs dim to be a multiple of num_heads; got {dim} and "
                f"{num_heads}"
            )
        if rotary and dim // num_heads % 2:
            raise ValueError(
                f"CausalSelfAttention with rotary needs heads of even width; got {dim // num_heads}"
            )
        self.num_heads, self.rotary = num_heads, rotary
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D]."""
        query, key, value = self._split(x, first=0)
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._merge(read)

    def step(self, x: Tensor, past: KeyValues) -> tuple[Tensor, KeyValues]:
        """Return the output [B, 1, D] for the next position x [B, 1, D], and what to remember."""
        query, key, value = self._split(x, first=past.keys.shape[2])
        past = past.append(key, value)
        read = F.scaled_dot_product_attention(query, past.keys, past.values)
        return self._merge(read), past

    def no_past(self, num_sequences: int) -> KeyValues:
        """Return the memory of B sequences that have not begun."""
        width = self.output.in_features // self.num_heads
        empty = self.output.weight.new_zeros(num_sequences, self.num_heads, 0, width)
        return KeyValues(empty, empty)

    def _split(self, x: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [B, H, T, E] of the positions first, first + 1, ..."""
        parts = self.query_key_value(x).unflatten(2, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if self.rotary:
            turn = rotation(first, x.shape[1], query.shape[3], like=query)
            query, key = rotate(query, turn), rotate(key, turn)
        return query, key, value

    def _merge(self, read: Tensor) -> Tensor:
        return self.output(read.transpose(1, 2).flatten(2))


def rotation(first: int, num_positions: int, width: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [T, E / 2] of the angles of the positions first, first + 1, ..."""
    pairs = torch.arange(0, width, 2, device=like.device, dtype=torch.float64)
    positions = torch.arange(first, first + num_positions, device=like.device, dtype=torch.float64)
    angles = positions[:, None] * 10_000.0 ** (-pairs / width)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Return x [..., T, E] with coordinates (e, e + E / 2) turned as a pair."""
    (cosine, sine), (left, right) = turn, x.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network at each position; both added to their input."""

    def __init__(
        self, dim: int, *, num_heads: int, hidden_dim: int, dropout: float, rotary: bool = False
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CausalSelfAttention(dim, num_heads=num_heads, rotary=rotary)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D]."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self._feedforward(x)

    def step(self, x: Tensor, past: KeyValues) -> tuple[Tensor, KeyValues]:
        """Return the output [B, 1, D] for the next position, and what to remember."""
        read, past = self.attention.step(self.attention_norm(x), past)
        x = x + self.dropout(read)
        return x + self._feedforward(x), past

    def _feedforward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(torch.relu(self.expand(self.feedforward_norm(x))))
        return self.dropout(self.contract(hidden))


class CausalTransformer(nn.Module):
    """Blocks one after the other, and a last normalization."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_blocks: int,
        hidden_dim: int,
        dropout: float,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        settings = {"num_heads": num_heads, "hidden_dim": hidden_dim}
        blocks = [
            TransformerBlock(dim, **settings, dropout=dropout, rotary=rotary)
            for _ in range(num_blocks)
        ]
        self.blocks = cast("Sequence[TransformerBlock]", nn.ModuleList(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D]; position t depends on positions 0..t alone."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def step(self, x: Tensor, past: list[KeyValues]) -> tuple[Tensor, list[KeyValues]]:
        """Return the output [B, 1, D] for the next position, and what each block remembers."""
        after = []
        for block, memory in zip(self.blocks, past, strict=True):
            x, memory = block.step(x, memory)
            after.append(memory)
        return self.norm(x), after

    def no_past(self, num_sequences: int) -> list[KeyValues]:
        """Return the memory of B sequences that have not begun."""
        return [block.attention.no_past(num_sequences) for block in self.blocks]
