"""The looked-up values of a batch, and their way to the workers that hold their rows.

Each worker reads rows of its own. The values of a column go to its holders, of several to each what
it has rows of. What arrives is that of all rows of all workers, in one order everywhere: by worker,
and within it as it was read. Nothing of a table is sent.
Shapes: N workers; b rows of each, padded to the same number; F columns, G of them with rows here; S
values; V values of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.distributed.owners import Group, Owners
from ensue.distributed.packing import bits_of, pack, unpack
from ensue.distributed.workers import Workers


class Entries(NamedTuple):
    """The values of b rows in F columns, one column after the other.

    values: [S] int64. lengths: [F, b] int32, values of each cell.
    """

    values: Tensor
    lengths: Tensor


class OwnEntries(NamedTuple):
    """The values, of all N * b rows, that this worker has rows of in its tables.

    values: [S] int64, in the order of the cells; codes as this worker has them, or ids.
    lengths: [N, G, b] int32. totals: [N, G, b] int32, with the values that others have.
    """

    values: Tensor
    lengths: Tensor
    totals: Tensor

    @classmethod
    def none(cls, num_rows: int) -> OwnEntries:
        """Return the values of no column, of rows of this worker alone."""
        lengths = torch.zeros(1, 0, num_rows, dtype=torch.int32)
        return cls(torch.zeros(0, dtype=torch.int64), lengths, lengths)

    def of_rows(self, owners: Owners, rank: int) -> OwnEntries:
        """Return what of values, which all workers have, one has rows of where these are divided.

        Values become codes among its rows.
        """
        is_own = owners.places(self.values, owners.size) == rank
        values = owners.local_codes(self.values[is_own], owners.size)
        return OwnEntries(values, count_kept(is_own, self.lengths), self.totals)


def entries_of(batch: RankingBatch, num_rows: int, columns: Sequence[int]) -> Entries:
    """Return the values of a batch; rows that it has less than `num_rows` are without values.

    Args:
        columns: of the F, in the order that they shall have.
    """
    size, (_, num_categorical) = len(batch), batch.codes.shape
    lengths = batch.codes.new_zeros(len(columns), num_rows, dtype=torch.int32)
    values = [batch.codes[:0].flatten()]
    for place, number in enumerate(columns):
        if number < num_categorical:
            values.append(batch.codes[:, number])
            lengths[place, :size] = 1
        else:
            bag = batch.bags[number - num_categorical]
            values.append(bag.values)
            lengths[place, :size] = bag.offsets.diff()
    return Entries(torch.cat(values), lengths)


class KeyExchange:
    """Sends values to the holders of their rows.

    Per step a worker sends each value that is not its own in as many bits as codes of its column
    take, 64 for an id of tables that grow; and the lengths of cells in as many bits as the longest
    one of a column takes, of bags with several holders their full lengths too, for a mean is over
    all.
    """

    def __init__(self, owners: Owners, workers: Workers) -> None:
        self.owners, self.workers = owners, workers
        num_categorical = sum(column.kind == "categorical" for column in owners.columns)
        # Bags whose holders do not see all of their values.
        self._is_partial = [
            number >= num_categorical and owners.is_split(number)
            for number in range(len(owners.columns))
        ]
        self._columns = [owners.columns_of(rank) for rank in range(owners.size)]
        self._partial = [self._places_of_partial(columns) for columns in self._columns]
        self._bits = [
            np.array([owners.bits(number) for number in columns], np.int64)
            for columns in self._columns
        ]

    def __call__(self, batch: RankingBatch, num_rows: int) -> OwnEntries:
        """Return the values of the rows of all workers for the tables of this one.

        Args:
            batch: of this worker's rows. num_rows: as many or more, the same on all workers.
        """
        rank, size = self.workers.rank, self.workers.size
        parts = self._parts(batch, num_rows)
        none = torch.zeros(0, dtype=torch.uint8)
        messages = [
            none if other == rank else _pack_part(part, self._bits[other])
            for other, part in enumerate(parts)
        ]
        give, ones = [len(one) for one in messages], [1] * size
        take = self.workers.all_to_all(torch.tensor(give), ones, ones, purpose="ids").tolist()
        received = self.workers.all_to_all(torch.cat(messages), give, take, purpose="ids")
        num_partial = len(self._partial[rank])
        found = [
            parts[rank]
            if other == rank
            else _unpack_part(message, self._bits[rank], num_partial, num_rows)
            for other, message in enumerate(torch.split(received, take))
        ]
        lengths = torch.stack([one for _, one, _ in found])
        totals = lengths
        if num_partial:
            totals = lengths.clone()
            totals[:, self._partial[rank]] = torch.stack([one for _, _, one in found])
        return OwnEntries(torch.cat([values for values, _, _ in found]), lengths, totals)

    def own_of(self, batch: RankingBatch, num_rows: int) -> OwnEntries:
        """Return what of the values of all rows this worker has rows of; nothing is sent.

        Args:
            batch: of all rows. num_rows: as many or more.
        """
        rank = self.workers.rank
        groups = [group for group in self.owners.groups if rank in group.holders]
        entries = entries_of(batch, num_rows, self._columns[rank])
        totals = entries.lengths
        if any(self._is_divided(group) for group in groups):
            stretches = zip(groups, _stretches(entries, groups), strict=True)
            parts = [part for one in stretches for _, part in self._divided(*one, [rank])]
            entries = Entries(*map(torch.cat, zip(*parts, strict=True)))
        return OwnEntries(entries.values, entries.lengths[None], totals[None])

    def _places_of_partial(self, columns: tuple[int, ...]) -> list[int]:
        return [place for place, number in enumerate(columns) if self._is_partial[number]]

    def _parts(self, batch: RankingBatch, num_rows: int) -> list[_Part]:
        """Return for each worker values [S], lengths [G, b], and full lengths of partial bags."""
        groups = self.owners.groups
        order = [number for group in groups for number in group.columns]
        entries = entries_of(batch, num_rows, order)
        values: list[list[Tensor]] = [[entries.values[:0]] for _ in self._columns]
        lengths: list[list[Tensor]] = [[entries.lengths[:0]] for _ in self._columns]
        for group, own in zip(groups, _stretches(entries, groups), strict=True):
            for rank, part in self._divided(group, own, group.holders):
                values[rank].append(part.values)
                lengths[rank].append(part.lengths)
        parts = []
        for rank, columns in enumerate(self._columns):
            partial = [order.index(columns[place]) for place in self._partial[rank]]
            totals = entries.lengths[partial]
            parts.append((torch.cat(values[rank]), torch.cat(lengths[rank]), totals))
        return parts

    def _is_divided(self, group: Group) -> bool:
        return len(group.holders) > 1 and not self.owners.by_element

    def _divided(
        self, group: Group, own: Entries, wanted: Sequence[int]
    ) -> Iterator[tuple[int, Entries]]:
        """Yield the parts of some holders in the values of a group of columns."""
        if not self._is_divided(group):
            yield from ((rank, own) for rank in wanted)
            return
        number = len(group.holders)
        places = self.owners.places(own.values, number)
        codes = self.owners.local_codes(own.values, number)
        for rank in wanted:
            is_own = places == group.holders.index(rank)
            yield rank, Entries(codes[is_own], count_kept(is_own, own.lengths))


_Part = tuple[Tensor, Tensor, Tensor]


def _pack_part(part: _Part, bits: NDArray[np.int64]) -> Tensor:
    """Return values [S], lengths [G, b] and full lengths [P, b] as bytes."""
    values, *lengths = part
    cells = torch.cat(lengths).long().numpy()
    longest = cells.max(axis=1, initial=0)
    of_lengths = np.array([bits_of(one) for one in longest], np.int64)
    counts = np.full(len(cells), cells.shape[1], np.int64)
    parts = [
        of_lengths.astype(np.uint8),
        pack(cells.reshape(-1), counts, of_lengths),
        pack(values.numpy(), cells[: len(bits)].sum(axis=1), bits),
    ]
    return torch.from_numpy(np.concatenate(parts))


def _unpack_part(
    message: Tensor, bits: NDArray[np.int64], num_partial: int, num_rows: int
) -> _Part:
    """Return what `_pack_part` made bytes of."""
    packed, num_columns = message.numpy(), len(bits)
    number = num_columns + num_partial
    of_lengths, packed = packed[:number].astype(np.int64), packed[number:]
    flat, packed = unpack(packed, np.full(number, num_rows, np.int64), of_lengths)
    cells = flat.reshape(number, num_rows)
    values, _ = unpack(packed, cells[:num_columns].sum(axis=1), bits)
    lengths = torch.from_numpy(cells.astype(np.int32))
    return torch.from_numpy(values), lengths[:num_columns], lengths[num_columns:]


def count_kept(is_kept: Tensor, lengths: Tensor) -> Tensor:
    """Return how many of the values [S] of each cell are kept, in the shape of `lengths`."""
    ends = lengths.flatten().cumsum(0, dtype=torch.int64)
    before = torch.cat([ends.new_zeros(1), is_kept.cumsum(0)])[ends]
    return before.diff(prepend=before.new_zeros(1)).to(lengths.dtype).view(lengths.shape)


def _stretches(entries: Entries, groups: Sequence[Group]) -> Iterator[Entries]:
    """Yield the values of each group of columns, which lie one after the other."""
    sizes = [len(group.columns) for group in groups]
    lengths = torch.split(entries.lengths, sizes)
    counts = [int(own.sum(dtype=torch.int64)) for own in lengths]
    yield from map(Entries, torch.split(entries.values, counts), lengths)
