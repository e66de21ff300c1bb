from __future__ import annotations

import pytest
import torch

from ensue.nn.coders import Decoder, Encoder


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ([7], (4,)),
        ([1, 9, 12], (3, 5)),
        ([2, 8, 9, 11], (3, 4, 2)),
        ([1, 4, 4], ()),
    ],
)
def test_what_is_decoded_has_the_shape_of_what_was_encoded(
    shape: list[int], channels: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(shape, 6, hidden=[8, 5], channels=channels)
    decoder = Decoder(shape, 6, hidden=[8, 5], channels=channels)
    x = torch.randn(3, *shape)
    codes = encoder(x)
    assert codes.shape == (3, 6)
    assert decoder(codes).shape == x.shape
    torch.testing.assert_close(encoder(x[1:2]), codes[1:2])  # rows know nothing of each other
    decoder(codes).square().sum().backward()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_hidden_layers_are_mirrored() -> None:
    encoder = Encoder([10], 2, hidden=[8, 5], channels=())
    decoder = Decoder([10], 2, hidden=[8, 5], channels=())
    sizes = [tuple(p.shape) for p in encoder.parameters() if p.dim() == 2]
    assert sizes == [(8, 10), (5, 8), (2, 5)]
    assert [tuple(p.shape) for p in decoder.parameters() if p.dim() == 2] == [
        (5, 2),
        (8, 5),
        (10, 8),
    ]
