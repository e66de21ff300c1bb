"""Numbers drawn by a counter: a function of (seed, id, place) alone, the same on every device.

The mixing of SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
OOPSLA 2014. Whole numbers become floating point by one product, so not even the last bit depends on
who computes them. Shapes: N ids, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np
import torch
from torch import Tensor

_compile: Any = numba.njit(cache=True, nogil=True)
StartName = Literal["uniform", "normal"]

GOLDEN = 0x9E3779B97F4A7C15  # 2 ^ 64 over the golden ratio
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_U_GOLDEN, _U_FIRST, _U_SECOND = (np.uint64(n) for n in (GOLDEN, _FIRST, _SECOND))
_HALF = 1 << 23  # half the numbers of 24 bits
_MEAN = 12 * 65535 // 2  # of the sum of twelve numbers of 16 bits; its deviation is 65536


@_compile
def mix(value):  # type: ignore[no-untyped-def]
    """Return a one-to-one function of a uint64 in which every bit depends on all."""
    value = (value ^ (value >> np.uint64(30))) * _U_FIRST
    value = (value ^ (value >> np.uint64(27))) * _U_SECOND
    return value ^ (value >> np.uint64(31))


def mix_tensor(values: Tensor) -> Tensor:
    """Return `mix` of the bits of int64 values, as int64."""
    values = (values ^ shift_right(values, 30)) * signed(_FIRST)
    values = (values ^ shift_right(values, 27)) * signed(_SECOND)
    return values ^ shift_right(values, 31)


def mix_number(value: int) -> int:
    """Return `mix` of one number, as int64."""
    return int(mix_tensor(torch.tensor(signed(value % 2**64))))


def shift_right(values: Tensor, bits: int) -> Tensor:
    """Return int64 values shifted as if they had no sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def signed(value: int) -> int:
    """Return the int64 that has the bits of a number below 2 ^ 64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def uniform(ids: Tensor, seed: int, place: int) -> Tensor:
    """Return a number in [0, 1) for each id [N], float64, by (seed, id, place) alone."""
    keys = mix_tensor(ids ^ mix_number(seed + GOLDEN)) + signed((place + 1) * GOLDEN % 2**64)
    return shift_right(mix_tensor(keys), 11).double() * 2.0**-53


def start_values(
    ids: Tensor, dim: int, *, seed: int, name: StartName, scale: float, dtype: torch.dtype
) -> Tensor:
    """Return the vectors [N, D] that ids [N] begin with.

    name: "uniform" between -scale and scale; "normal" with deviation `scale`: the sum of twelve
        uniform numbers, so never beyond six deviations.
    """
    if ids.device.type == "cpu" and dtype in (torch.float32, torch.float64):
        out = torch.empty(len(ids), dim, dtype=dtype)
        bits = ids.contiguous().numpy().view(np.uint64)
        start = np.uint64(mix_number(seed + GOLDEN) % 2**64)
        _fill(bits, start, name == "normal", out.numpy(), _factor(name, scale))
        return out
    return start_values_by_tensors(ids, dim, seed=seed, name=name, scale=scale, dtype=dtype)


def start_values_by_tensors(
    ids: Tensor, dim: int, *, seed: int, name: StartName, scale: float, dtype: torch.dtype
) -> Tensor:
    """Return what `start_values` does, on any device."""
    keys = mix_tensor(ids ^ mix_number(seed + GOLDEN))[:, None]
    places = torch.arange(dim, device=ids.device)[None]
    if name == "uniform":
        whole = shift_right(_drawn(keys, places), 40) - _HALF
    else:
        whole = torch.full((len(ids), dim), -_MEAN, dtype=torch.int64, device=ids.device)
        for third in range(3):
            drawn = _drawn(keys, 3 * places + third)
            for part in range(4):
                whole += (drawn >> 16 * part) & 65535
    return whole.to(dtype) * _factor(name, scale)


def _factor(name: StartName, scale: float) -> float:
    return scale / _HALF if name == "uniform" else scale / 65536


def _drawn(keys: Tensor, places: Tensor) -> Tensor:
    return mix_tensor(keys + (places + 1) * signed(GOLDEN))


@_compile
def _fill(ids, start, is_normal, out, factor):  # type: ignore[no-untyped-def]
    factor = out.dtype.type(factor)
    for n in range(len(ids)):
        state = mix(ids[n] ^ start)
        for d in range(out.shape[1]):
            if is_normal:
                whole = -_MEAN
                for _ in range(3):
                    state += _U_GOLDEN
                    bits = mix(state)
                    for part in range(4):
                        whole += np.int64((bits >> np.uint64(16 * part)) & np.uint64(65535))
            else:
                state += _U_GOLDEN
                whole = np.int64(mix(state) >> np.uint64(40)) - _HALF
            out[n, d] = out.dtype.type(whole) * factor
