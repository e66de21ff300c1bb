from __future__ import annotations

import math

import pytest
import torch

from ensue.nn.transformer import CausalSelfAttention, rotate, rotation


def test_rotation_turns_each_pair_by_its_angle() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    turn = rotation(3, 2, 4, like=like)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    turned = rotate(x, turn)
    for row, position in enumerate((3, 4)):
        for pair, frequency in enumerate((1.0, 0.01)):
            number = complex(x[row, pair], x[row, pair + 2])
            angle = position * frequency
            number *= complex(math.cos(angle), math.sin(angle))
            assert turned[row, pair].item() == pytest.approx(number.real)
            assert turned[row, pair + 2].item() == pytest.approx(number.imag)


def test_products_of_turned_vectors_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 8, dtype=torch.float64)
    products = [
        (
            rotate(query, rotation(t, 1, 8, like=query))
            * rotate(key, rotation(t - 5, 1, 8, like=key))
        )
        .sum()
        .item()
        for t in (5, 9, 100)
    ]
    assert products == pytest.approx([products[0]] * 3)
    assert products[0] != pytest.approx((query * key).sum().item())


def test_rotary_attention_does_not_know_where_a_sequence_begins() -> None:
    torch.manual_seed(0)
    attention = CausalSelfAttention(8, num_heads=2, rotary=True).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    same = x[:, [0, 0, 0, 3]]  # equal vectors: only distances could tell them apart
    with torch.no_grad():
        torch.testing.assert_close(attention(same)[0, 2], attention(same)[0, 0])
        moved = attention(x[:, [5, 4, 3]])[0, -1]
        assert not torch.allclose(moved, attention(x[:, [4, 5, 3]])[0, -1])


def test_widths_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads; got 8 and 3"):
        CausalSelfAttention(8, num_heads=3)
    with pytest.raises(ValueError, match="heads of even width; got 3"):
        CausalSelfAttention(6, num_heads=2, rotary=True)
