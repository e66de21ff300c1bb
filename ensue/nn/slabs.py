"""A table of rows that grows and never moves: a list of slabs, one more when the last is full.

A row is looked up by number: in memory by one pass, in which the rows ahead are already on their
way to the cache; elsewhere slab by slab. Memory that was never written costs nothing on most
systems, and large slabs lie in large pages where the system has them.
Shapes: N rows asked for, W width of a row; a slab is [2 ^ bits, W].
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from torch import Tensor

_compile: Any = numba.njit(cache=True, nogil=True)
AHEAD = 16  # rows that are fetched ahead of the one in use
LINE = 64  # bytes of a line of the cache
LARGE = 1 << 20  # bytes of a tensor that has its own pages
_intrinsic: Any = intrinsic
_COMPILED = (torch.float32, torch.float64, torch.int64, torch.int32)


class Slabs:
    """Rows [W] in slabs of 2 ** bits rows. What a row holds before it was put has no meaning."""

    def __init__(
        self, width: int, *, bits: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.width, self.bits, self.dtype = width, bits, dtype
        self.device = torch.device(device)
        self.tensors: list[Tensor] = []

    @property
    def capacity(self) -> int:
        """Number of rows that there is room for."""
        return len(self.tensors) << self.bits

    @property
    def num_bytes(self) -> int:
        """Bytes of all slabs."""
        return self.capacity * self.width * self.dtype.itemsize

    def reserve(self, num_rows: int) -> None:
        """Make room for rows 0 .. num_rows - 1; those there stay where they are."""
        while self.capacity < num_rows:
            shape = (1 << self.bits, self.width)
            if self.is_compiled:
                self.tensors.append(empty(shape, self.dtype))
            else:
                self.tensors.append(torch.empty(shape, dtype=self.dtype, device=self.device))

    def take(self, rows: Tensor, width: int | None = None) -> Tensor:
        """Return the first `width` columns (all by default) of rows [N]."""
        width = self.width if width is None else width
        out = torch.empty(len(rows), width, dtype=self.dtype, device=self.device)
        if self.is_compiled:
            _take(self.pointers(), self.bits, self.width, rows.contiguous().numpy(), out.numpy())
            return out
        for slab, places, own in self._by_slab(rows):
            out[places] = slab[own, :width]
        return out

    def put(self, rows: Tensor, values: Tensor) -> None:
        """Write values [N, <= W] to the first columns of distinct rows [N]."""
        if self.is_compiled:
            source = values.to(self.dtype).contiguous().numpy()
            _put(self.pointers(), self.bits, self.width, rows.contiguous().numpy(), source)
            return
        for slab, places, own in self._by_slab(rows):
            slab[own, : values.shape[1]] = values[places].to(self.dtype)

    @property
    def is_compiled(self) -> bool:
        """Whether the rows are read by compiled loops."""
        return self.device.type == "cpu" and self.dtype in _COMPILED

    def pointers(self) -> Any:
        """Return the addresses of the slabs, for compiled loops."""
        return np.array([slab.data_ptr() for slab in self.tensors], dtype=np.int64)

    def parts(self, num_rows: int) -> Iterator[Tensor]:
        """Yield the slabs in their order, without the rows behind the first `num_rows`."""
        for number, slab in enumerate(self.tensors):
            first = number << self.bits
            if first < num_rows:
                yield slab[: num_rows - first]

    def load(self, parts: Sequence[Tensor]) -> None:
        """Hold what `parts` gave, in new slabs."""
        self.tensors = []
        for number, part in enumerate(parts):
            self.reserve((number << self.bits) + 1)
            self.tensors[number][: len(part)] = part

    def map(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put change(slab) in the place of every slab: another device or type."""
        example = change(torch.empty(0, dtype=self.dtype, device=self.device))
        self.dtype, self.device = example.dtype, example.device
        self.tensors = [change(slab) for slab in self.tensors]

    def _by_slab(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor | slice, Tensor]]:
        """Yield each slab in use, the places in `rows` of its rows, and these within the slab."""
        if len(self.tensors) == 1:
            yield self.tensors[0], slice(None), rows
            return
        numbers = rows >> self.bits
        order = numbers.argsort(stable=True)
        first = 0
        for slab, count in zip(
            self.tensors, numbers.bincount(minlength=len(self.tensors)).tolist(), strict=True
        ):
            if count:
                places = order[first : first + count]
                yield slab, places, rows[places] & ((1 << self.bits) - 1)
            first += count


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor in memory; a large one in pages of its own, large ones where there are any.

    In the heap they would lie between what is given back, and leave holes.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return torch.empty(shape, dtype=dtype)
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, size, **flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system that has none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@_intrinsic  # type: ignore[untyped-decorator]
def as_pointer(_typing: Any, address: Any) -> Any:
    """Return an integer address as what `numba.carray` takes."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(8)))

    return types.voidptr(address), generate


@_intrinsic  # type: ignore[untyped-decorator]
def prefetch(_typing: Any, address: Any) -> Any:
    """Have the line of the cache at an integer address fetched, without waiting for it."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        number, pointer = ir.IntType(32), ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        name = "llvm.prefetch.p0" if pointer.is_opaque else "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        place = builder.inttoptr(arguments[0], pointer)
        builder.call(function, [place, number(1), number(3), number(1)])
        return _context.get_dummy_value()

    return types.void(address), generate


@_compile
def slab_of(pointers, bits, width, row, like):  # type: ignore[no-untyped-def]
    """Return the slab [2 ^ bits, width] that row is in, as an array of the type of `like`."""
    return carray(as_pointer(pointers[row >> bits]), (1 << bits, width), like.dtype)


@_compile
def fetch_ahead(pointers, bits, size, rows, n):  # type: ignore[no-untyped-def]
    """Have row rows[n + AHEAD], `size` bytes, on its way to the cache."""
    if n + AHEAD < len(rows):
        row = rows[n + AHEAD]
        address = pointers[row >> bits] + (row & ((1 << bits) - 1)) * size
        for offset in range(0, size, LINE):
            prefetch(address + offset)


@_compile
def _take(pointers, bits, width, rows, out):  # type: ignore[no-untyped-def]
    last, size = (1 << bits) - 1, width * out.itemsize
    for n in range(len(rows)):
        fetch_ahead(pointers, bits, size, rows, n)
        own = slab_of(pointers, bits, width, rows[n], out)[rows[n] & last]
        for d in range(out.shape[1]):
            out[n, d] = own[d]


@_compile
def _put(pointers, bits, width, rows, values):  # type: ignore[no-untyped-def]
    last, size = (1 << bits) - 1, width * values.itemsize
    for n in range(len(rows)):
        fetch_ahead(pointers, bits, size, rows, n)
        own = slab_of(pointers, bits, width, rows[n], values)[rows[n] & last]
        for d in range(values.shape[1]):
            own[d] = values[n, d]
