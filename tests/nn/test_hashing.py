from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.nn import hashing

WORD = st.integers(0, 2**64 - 1)


def splitmix(state: int) -> int:
    """The mixing of SplitMix64 in whole numbers."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


@settings(max_examples=50, deadline=None)
@given(value=WORD)
def test_mixing(value: int) -> None:
    assert int(hashing.mix(np.uint64(value))) == splitmix(value)
    assert hashing.mix_number(value) % 2**64 == splitmix(value)


def test_first_numbers_of_the_published_generator() -> None:
    """SplitMix64 with seed 1234567, as its authors' program prints them."""
    state = [(1234567 + n * hashing.GOLDEN) % 2**64 for n in (1, 2, 3)]
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix(n) for n in state] == known
    assert [int(hashing.mix(np.uint64(n))) for n in state] == known


def expected_start(key: int, dim: int, seed: int, name: str, scale: float) -> list[float]:
    state, values = splitmix(key % 2**64 ^ splitmix((seed + hashing.GOLDEN) % 2**64)), []
    for _ in range(dim):
        if name == "uniform":
            state = (state + hashing.GOLDEN) % 2**64
            values.append(((splitmix(state) >> 40) / 2**23 - 1) * scale)
        else:
            total = 0
            for _ in range(3):
                state = (state + hashing.GOLDEN) % 2**64
                total += sum(splitmix(state) >> 16 * part & 65535 for part in range(4))
            values.append((total - 6 * 65535) / 65536 * scale)
    return values


@pytest.mark.parametrize("name", ["uniform", "normal"])
@pytest.mark.parametrize("key", [1, -5, 2**63 - 1, -(2**63)])
def test_start_values_by_definition(name: str, key: int) -> None:
    ours = hashing.start_values(
        torch.tensor([key]), 5, seed=3, name=name, scale=0.5, dtype=torch.float64
    )
    assert ours[0].tolist() == pytest.approx(expected_start(key, 5, 3, name, 0.5), rel=1e-15)


@pytest.mark.parametrize("name", ["uniform", "normal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensor_operations_give_the_same_bits(name: str, dtype: torch.dtype) -> None:
    ids = torch.randint(-(2**63), 2**63 - 1, (500,))
    settings_ = {"seed": 11, "name": name, "scale": 0.013, "dtype": dtype}
    ours = hashing.start_values(ids, 7, **settings_)
    assert torch.equal(ours, hashing.start_values_by_tensors(ids, 7, **settings_))


def test_how_start_values_are_spread() -> None:
    ids = torch.arange(1, 20001)
    settings_ = {"seed": 0, "scale": 2.0, "dtype": torch.float64}
    normal = hashing.start_values(ids, 8, name="normal", **settings_)
    uniform = hashing.start_values(ids, 8, name="uniform", **settings_)
    assert uniform.abs().max() <= 2
    # means and deviations within five standard errors of what they must be
    error = 5 / normal.numel() ** 0.5
    assert normal.mean().abs() < 2 * error
    assert uniform.mean().abs() < 2 * error
    assert normal.std().item() == pytest.approx(2.0, rel=error)
    assert uniform.std().item() == pytest.approx(2 / 3**0.5, rel=error)
    for values in (normal, uniform):  # columns, and neighboring ids, have nothing in common
        assert (values.T.corrcoef() - torch.eye(8)).abs().max() < 5 / len(ids) ** 0.5
        assert (values[1:] * values[:-1]).mean().abs() < 4 * error
    other = hashing.start_values(ids, 8, name="uniform", **{**settings_, "seed": 1})
    assert (uniform * other).mean().abs() < 4 * error


def test_uniform_numbers() -> None:
    ids = torch.arange(1, 20001)
    draws = torch.stack([hashing.uniform(ids, 5, place) for place in range(3)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert (draws.mean(1) - 0.5).abs().max() < 5 * 12**-0.5 / len(ids) ** 0.5
    assert (draws.corrcoef() - torch.eye(3)).abs().max() < 5 / len(ids) ** 0.5
