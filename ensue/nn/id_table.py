"""Row numbers for 64-bit ids that come and go.

A new id gets the row that was given back last, else the next one: numbers depend on the order of
first sight alone, not on the device or on how the search is done. Row 0 is that of no id: of those
without a row, and of id 0, which is never stored.

In memory a search reads 4 bytes a probe; at most 3/4 of the slots are taken, 5.3 to 10.7 bytes an
id. Elsewhere all ids of a call probe at once, and a slot has 12 bytes.
Shapes: N ids, R rows given out so far, row 0 among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ensue.nn import id_kernels as kernels
from ensue.nn.hashing import mix_tensor, shift_right
from ensue.nn.row_sums import group_rows_by_sorting
from ensue.nn.slabs import Slabs, empty

LEAST_LOG = 10  # of the number of slots


class Index(Protocol):
    """Where the rows of ids are found; the ids themselves lie in slabs, by row."""

    log: int

    def find(self, ids: Tensor) -> Tensor:
        """Return the rows of ids [N], 0 where there is none."""

    def insert(self, ids: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
        """Return the rows of ids [N], new ones from the pool, and the places of ids with these."""

    def remove(self, rows: Tensor, num_rows: int) -> None:
        """Forget the ids of distinct rows [N], and set them to 0 in the slabs."""

    def rebuild(self, log: int, num_rows: int) -> None:
        """Take 2 ** log slots for the ids of all rows."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the slots."""


class Pool:
    """The rows that a new id may get: those given back, the last one first, then the next."""

    def __init__(self, device: torch.device) -> None:
        self.next_row, self.num_live = 1, 0
        self.free = torch.zeros(0, dtype=torch.int64, device=device)

    def draw(self, count: int) -> Tensor:
        """Return `count` rows in the order in which they are given out."""
        num_old = min(count, len(self.free))
        rows = torch.arange(count, device=self.free.device) + (self.next_row - num_old)
        rows[:num_old] = self.free[len(self.free) - num_old :].flip(0)
        self.free = self.free[: len(self.free) - num_old]
        self.next_row += count - num_old
        self.num_live += count
        return rows

    def give_back(self, rows: Tensor) -> None:
        """Take distinct rows [N] that no id has any more."""
        self.free = torch.cat([self.free, rows])
        self.num_live -= len(rows)


class IdTable:
    """int64 ids -> rows 1, 2, ...

    bits: of the number of rows in a slab.
    index: how to search: by default as fits the device.
    """

    def __init__(
        self,
        *,
        bits: int = 18,
        device: torch.device | str = "cpu",
        index: type[CompiledIndex] | type[TensorIndex] | None = None,
    ) -> None:
        self.ids = Slabs(1, bits=bits, dtype=torch.int64, device=device)
        self.ids.reserve(1)
        self.ids.tensors[0][0] = 0
        self._kind = index
        self.pool = Pool(self.ids.device)
        self.index = self._new_index()

    def __len__(self) -> int:
        return self.pool.num_live

    @property
    def num_rows(self) -> int:
        """Rows given out so far, row 0 and those given back among them."""
        return self.pool.next_row

    @property
    def num_bytes(self) -> int:
        """Bytes of ids, slots and rows given back."""
        return self.ids.num_bytes + self.index.num_bytes + 8 * len(self.pool.free)

    def find(self, ids: Tensor) -> Tensor:
        """Return the rows of ids [N] int64; 0 of one without a row.

        Raises:
            ValueError: the ids have another type.
        """
        return self.index.find(_checked(ids))

    def insert(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of ids [N], and the places in `ids` of those that got one just now.

        Raises:
            ValueError: the ids have another type than int64.
        """
        return self.index.insert(_checked(ids), self.pool)

    def delete(self, ids: Tensor) -> Tensor:
        """Take their rows from distinct ids [N] and return the rows of those that had one."""
        rows = self.find(ids)
        rows = rows[rows != 0]
        self.index.remove(rows, self.num_rows)
        self.pool.give_back(rows)
        return rows

    def state(self) -> dict[str, Tensor]:
        """Return the ids by row, a tensor for each slab, and the rows given back."""
        parts = enumerate(self.ids.parts(self.num_rows))
        return {f"ids.{number}": part for number, part in parts} | {"free": self.pool.free}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Become the table of which this is the state."""
        parts = [state[f"ids.{number}"] for number in range(len(state) - 1)]
        self.ids.load(parts)
        self.pool = Pool(self.ids.device)
        self.pool.free = state["free"].to(self.ids.device, copy=True)
        self.pool.next_row = sum(len(part) for part in parts)
        self.pool.num_live = self.pool.next_row - 1 - len(self.pool.free)
        self.index = self._new_index()

    def to(self, device: torch.device) -> None:
        """Move to another device."""
        self.ids.map(lambda slab: slab.to(device))
        self.pool.free = self.pool.free.to(device)
        self.index = self._new_index()

    def _new_index(self) -> Index:
        kind = self._kind or (CompiledIndex if self.ids.is_compiled else TensorIndex)
        index = kind(self.ids)
        index.rebuild(log_of_slots(self.num_rows), self.num_rows)
        return index


def _checked(ids: Tensor) -> Tensor:
    if ids.dtype != torch.int64 or ids.dim() != 1:
        raise ValueError(f"a table of ids needs ids [N] int64; got {tuple(ids.shape)} {ids.dtype}")
    return ids


def log_of_slots(num_ids: int, at_least: int = LEAST_LOG) -> int:
    """Return the logarithm of the number of slots: at most 3/4 of them are taken."""
    log = at_least
    while num_ids > 3 << log >> 2:
        log += 1
    return log


class CompiledIndex:
    """Slots of 4 bytes, searched id by id; see `id_kernels`."""

    def __init__(self, ids: Slabs) -> None:
        self.ids, self.log = ids, LEAST_LOG
        self.slots = self._empty()

    def _empty(self) -> Any:
        return empty((1 << self.log,), torch.int32).zero_().numpy().view(np.uint32)

    @property
    def num_bytes(self) -> int:
        """Bytes of the slots."""
        return self.slots.nbytes

    def find(self, ids: Tensor) -> Tensor:
        """Return the rows of ids [N], 0 where there is none."""
        rows = torch.empty(len(ids), dtype=torch.int64)
        kernels.find(ids.contiguous().numpy(), *self._search(), rows.numpy())
        return rows

    def insert(self, ids: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
        """Return the rows of ids [N], new ones from the pool, and the places of ids with these."""
        rows, new = torch.empty(2, len(ids), dtype=torch.int64)
        counts = np.array([pool.next_row, len(pool.free), pool.num_live, 0])
        done = 0
        while True:
            limits = np.array([self.ids.capacity, 3 << self.log >> 2])
            to_fill = (pool.free.numpy(), counts, limits, rows.numpy(), new.numpy())
            keys = ids.contiguous().numpy()
            done = kernels.insert(keys, done, *self._search(), *to_fill)
            if done == len(ids):
                break
            if counts[kernels.NUM_LIVE] == limits[1]:
                self.rebuild(self.log + 1, int(counts[kernels.NEXT]))
            else:
                self.ids.reserve(self.ids.capacity + 1)
        pool.next_row, pool.num_live = int(counts[kernels.NEXT]), int(counts[kernels.NUM_LIVE])
        pool.free = pool.free[: int(counts[kernels.NUM_FREE])]
        return rows, new[: int(counts[kernels.NUM_NEW])]

    def remove(self, rows: Tensor, num_rows: int) -> None:
        """Forget the ids of distinct rows [N], and set them to 0 in the slabs."""
        kernels.remove(rows.numpy(), *self._search())

    def rebuild(self, log: int, num_rows: int) -> None:
        """Take 2 ** log slots for the ids of all rows."""
        self.log = log
        self.slots = self._empty()
        kernels.rebuild(num_rows, *self._search(), np.zeros(0, dtype=np.int64))

    def _search(self) -> tuple[Any, ...]:
        return self.slots, self.log, self.ids.pointers(), self.ids.bits


class TensorIndex:
    """Slots of an id and its row, searched by tensor operations for all ids of a call at once."""

    def __init__(self, ids: Slabs) -> None:
        self.ids, self.log = ids, LEAST_LOG
        self.keys, self.rows = self._empty(self.log)

    def _empty(self, log: int) -> tuple[Tensor, Tensor]:
        keys = torch.zeros(1 << log, dtype=torch.int64, device=self.ids.device)
        return keys, keys.to(torch.int32)

    @property
    def num_bytes(self) -> int:
        """Bytes of the slots."""
        return 12 << self.log

    def find(self, ids: Tensor) -> Tensor:
        """Return the rows of ids [N], 0 where there is none."""
        found = torch.zeros_like(ids)
        waiting = ids.nonzero().squeeze(1)
        place = self._home(ids[waiting])
        while len(waiting):
            keys = self.keys[place]
            is_hit = keys == ids[waiting]
            found[waiting[is_hit]] = self.rows[place[is_hit]].long()
            go_on = ~is_hit & (keys != 0)
            waiting, place = waiting[go_on], self._next(place[go_on])
        return found

    def insert(self, ids: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
        """Return the rows of ids [N], new ones from the pool, and the places of ids with these."""
        distinct, groups = group_rows_by_sorting(ids)
        rows = self.find(distinct)
        new = ((rows == 0) & (distinct != 0)).nonzero().squeeze(1)
        log = log_of_slots(pool.num_live + len(new), self.log)
        if log > self.log:
            self.rebuild(log, pool.next_row)
        rows[new] = pool.draw(len(new))
        self.ids.reserve(pool.next_row)
        self.ids.put(rows[new], distinct[new, None])
        self._place(distinct[new], rows[new])
        first = torch.full_like(distinct, len(ids))
        places = torch.arange(len(ids), device=ids.device)
        first.scatter_reduce_(0, groups, places, "amin")
        return rows[groups], first[new]

    def remove(self, rows: Tensor, num_rows: int) -> None:
        """Forget the ids of distinct rows [N], and set them to 0 in the slabs."""
        self.ids.put(rows, torch.zeros_like(rows)[:, None])
        self.rebuild(self.log, num_rows)

    def rebuild(self, log: int, num_rows: int) -> None:
        """Take 2 ** log slots for the ids of all rows."""
        self.log = log
        self.keys, self.rows = self._empty(log)
        for number, part in enumerate(self.ids.parts(num_rows)):
            ids = part.squeeze(1)
            own = ids.nonzero().squeeze(1)
            self._place(ids[own], own + (number << self.ids.bits))

    def _place(self, ids: Tensor, rows: Tensor) -> None:
        """Store distinct ids that are not there."""
        place = self._home(ids)
        while len(ids):
            is_empty = self.keys[place] == 0
            self.keys[place[is_empty]] = ids[is_empty]  # one of those that meet stays
            is_in = self.keys[place] == ids
            self.rows[place[is_in]] = rows[is_in].int()
            ids, rows, place = ids[~is_in], rows[~is_in], self._next(place[~is_in])

    def _home(self, ids: Tensor) -> Tensor:
        return shift_right(mix_tensor(ids), 64 - self.log)

    def _next(self, place: Tensor) -> Tensor:
        return (place + 1) & ((1 << self.log) - 1)
