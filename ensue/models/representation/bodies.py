"""What encodes and decodes measurements of one kind: numbers of a fixed shape, or bags of items.

The error of numbers is their mean squared error, that of bags minus the mean log-likelihood of
their items under one softmax (Liang et al., WWW 2018, arXiv:1802.05814). Both are means over the
elements of a measurement: a sum over 64^3 voxels would leave nothing to the direction of time.
Shapes: B measurements, D width of the code, S items in all bags, I items, H width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.data.longitudinal.measurements import BagBatch
from ensue.losses.longitudinal import masked_error
from ensue.losses.variational import multinomial_loss
from ensue.nn.bags import bag_sum
from ensue.nn.coders import Decoder, Encoder, rectified_layers

TURN, SHIFT = 0.1, 0.06  # of the views of images: radians, and shares of their size


class Body(nn.Module, ABC):
    """Encodes and decodes one kind of measurement x."""

    @abstractmethod
    def encode(self, x: Any) -> Tensor:
        """Return codes [B, num_codes D], one beside the other."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return what codes [B, D] stand for: numbers [B, ...], or log-probabilities [B, I]."""

    @abstractmethod
    def error(self, codes: Tensor, x: Any, shares: Tensor) -> Tensor:
        """Return the sum over measurements of their error, times shares [B]."""

    @abstractmethod
    def per_element(self, x: Any) -> Tensor:
        """Return what a log-likelihood is multiplied by where `error` is measured [B] or []."""

    @abstractmethod
    def view(self, x: Any, noise: float, dropout: float) -> Any:
        """Return the measurements changed at random, so little that they stay what they are."""


class NumbersBody(Body):
    """Numbers [B, ...]; missing ones are NaN, are read as 0, which is the mean, and have no error.

    Args:
        shape: of one measurement.
        num_codes: how many codes of width `dim` are encoded; one is decoded.
        hidden, channels: as in `LSSLConfig`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dim: int,
        *,
        num_codes: int,
        hidden: Sequence[int],
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self._size = math.prod(shape)
        self.encoder = Encoder(shape, num_codes * dim, hidden=hidden, channels=channels)
        self.decoder = Decoder(shape, dim, hidden=hidden, channels=channels)

    def encode(self, x: Tensor) -> Tensor:
        """Return codes [B, num_codes D]."""
        codes: Tensor = self.encoder(torch.nan_to_num(x))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return numbers [B, ...]."""
        numbers: Tensor = self.decoder(codes)
        return numbers

    def error(self, codes: Tensor, x: Tensor, shares: Tensor) -> Tensor:
        """Return the sum of the mean squared errors, times shares [B]."""
        return (masked_error(self.decode(codes), x) * shares).sum()

    def per_element(self, x: Tensor) -> Tensor:
        """Return 2 over the size: minus a normal log-likelihood is half the squared error."""
        return torch.tensor(2.0 / self._size, device=x.device)

    def view(self, x: Tensor, noise: float, dropout: float) -> Tensor:
        """Return numbers with noise, and without some of them; images are turned and moved too."""
        changed = x + noise * torch.randn_like(x)
        if x.dim() == 2:
            return changed.masked_fill(torch.rand_like(x) < dropout, torch.nan)
        return _turned_and_moved(torch.nan_to_num(changed))


class BagsBody(Body):
    """Bags of items; what is decoded are the logits of all items, which are never stored."""

    def __init__(self, num_items: int, dim: int, *, num_codes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        first, last = (hidden[0], hidden[-1]) if hidden else (dim, dim)
        self.input_embedding = nn.Parameter(torch.randn(num_items + 1, first) * 0.1)
        self.input_bias = nn.Parameter(torch.zeros(first))
        self.encoder = rectified_layers([first, *hidden[1:]])
        self.code = nn.Linear(last, num_codes * dim)
        self.decoder = rectified_layers([dim, *hidden[::-1]])
        self.output_embedding = nn.Parameter(torch.randn(num_items + 1, first) * 0.1)
        self.output_bias = nn.Parameter(torch.zeros(num_items + 1))

    def encode(self, x: BagBatch) -> Tensor:
        """Return codes; a bag is read as the sum of its items over the root of their number."""
        lengths = x.offsets.diff()
        amounts = lengths.to(self.input_bias.dtype).rsqrt()
        amounts = amounts.repeat_interleave(lengths, output_size=len(x.items))
        read = bag_sum(self.input_embedding, x.items, x.offsets, amounts) + self.input_bias
        codes: Tensor = self.code(self.encoder(F.relu(read)))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return log-probabilities of all items [B, I]."""
        logits = torch.addmm(self.output_bias, self.decoder(codes), self.output_embedding.T)
        return torch.log_softmax(logits[:, 1:], dim=1)

    def error(self, codes: Tensor, x: BagBatch, shares: Tensor) -> Tensor:
        """Return minus the sum of the mean log-likelihoods, times shares [B]."""
        return multinomial_loss(
            self.decoder(codes),
            self.output_embedding,
            self.output_bias,
            x.items,
            x.offsets,
            weights=shares * self.per_element(x),
        )

    def per_element(self, x: BagBatch) -> Tensor:
        """Return 1 over the number of items of each bag [B]."""
        return 1.0 / x.offsets.diff().to(self.input_bias.dtype)

    def view(self, x: BagBatch, noise: float, dropout: float) -> BagBatch:
        """Return bags without some of their items; the first one is kept, `noise` is not read."""
        is_kept = torch.rand(len(x.items), device=x.items.device) >= dropout
        is_kept[x.offsets[:-1]] = True
        ends = torch.cat([x.offsets.new_zeros(1), is_kept.cumsum(0)])
        return BagBatch(x.items[is_kept], ends[x.offsets])


def _turned_and_moved(x: Tensor) -> Tensor:
    """Return images or volumes, each turned in the plane of its last axes and moved a little."""
    axes = x.dim() - 2
    angle = TURN * (2 * torch.rand(len(x), device=x.device) - 1)
    affine = torch.eye(axes, axes + 1, device=x.device).repeat(len(x), 1, 1)
    cosine, sine = angle.cos(), angle.sin()
    affine[:, 0, 0], affine[:, 0, 1] = cosine, -sine
    affine[:, 1, 0], affine[:, 1, 1] = sine, cosine
    affine[:, :, axes] = 2 * SHIFT * (2 * torch.rand(len(x), axes, device=x.device) - 1)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
