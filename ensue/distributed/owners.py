"""Which process holds the rows of a value: the layouts of tables over workers.

A vocabulary is held by one worker or by several. Of several, a value's worker is told by the value
alone: its code modulo their number, or a hash of its id for tables that grow. All columns of a
vocabulary are with its holders, so that a history finds the rows of the column that it is of.
Rows may also be divided the other way: each worker has some elements of every vector.
Rong et al., "Distributed Equivalent Substitution Training for Large-Scale Recommender Systems",
SIGIR 2020, arXiv:1909.04823 has rows by a hash of their key, and fields; that one layout holds both
is ours.
Shapes: N workers, F columns that are looked up, V values of a vocabulary, S values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ensue.data.ranking.schema import RankingColumn, RankingSchema
from ensue.distributed.packing import bits_of
from ensue.errors import ConfigError
from ensue.nn.hashing import mix_tensor, shift_right


class Group(NamedTuple):
    """Columns whose rows are with the same workers.

    columns: numbers of them among the F. holders: their workers, at least one, ascending.
    """

    columns: tuple[int, ...]
    holders: tuple[int, ...]


class Owners:
    """Where the rows of the columns of a ranking dataset are.

    columns: the F looked-up ones, categorical ones and then bags, as `FieldEmbedding` has them.
    groups: they are numbered in this order in all that is sent.
    by_element: each worker has some elements of the vectors of all values.

    Args:
        holders: of each vocabulary; None divides vectors by element.
        size: N.
        grows: values are ids of tables that grow, not codes.

    Raises:
        ConfigError: a vocabulary has no holder, or one that there is not.
    """

    def __init__(
        self,
        schema: RankingSchema,
        holders: Mapping[str, Sequence[int]] | None,
        size: int,
        *,
        grows: bool = False,
    ) -> None:
        self.columns = looked_up(schema)
        self.size, self.grows, self.by_element = size, grows, holders is None
        if holders is None:
            holders = by_hash(schema, size)
        self.holders = {name: tuple(sorted(holders.get(name, ()))) for name in schema.vocabularies}
        for name, own in self.holders.items():
            if not own or len(set(own)) < len(own) or own[0] < 0 or own[-1] >= size:
                raise ConfigError(
                    f"each vocabulary needs distinct workers of 0 to {size - 1}; got {own} for "
                    f"{name!r}."
                )
        if grows and size > 1 and any(len(own) < size for own in self.holders.values()):
            raise ConfigError(
                "rows of tables that grow are divided among all workers by a hash of their ids; "
                "got a layout by columns. Use layout hash."
            )
        members: dict[tuple[int, ...], list[int]] = {}
        for number, column in enumerate(self.columns):
            members.setdefault(self.holders[column.vocabulary], []).append(number)
        self.groups = tuple(Group(tuple(own), key) for key, own in sorted(members.items()))

    def columns_of(self, rank: int) -> tuple[int, ...]:
        """Return the columns that a worker has rows of, in the order of the groups."""
        return tuple(c for group in self.groups if rank in group.holders for c in group.columns)

    def is_split(self, column: int) -> bool:
        """Return whether several workers have rows of a column, each its own."""
        return not self.by_element and len(self.holders[self.columns[column].vocabulary]) > 1

    def places(self, values: Tensor, num_holders: int) -> Tensor:
        """Return the place of each value's worker among the holders [S]."""
        if num_holders == 1:
            return torch.zeros_like(values)
        if self.grows:
            # Of the upper half, which says it for an id as a table has it too: parts of a table
            # are told apart in the lower half.
            return mix_tensor(shift_right(values, 32)).remainder(num_holders)
        return values % num_holders

    def local_codes(self, values: Tensor, num_holders: int) -> Tensor:
        """Return values as their worker has them [S]: rows of static tables close up."""
        return values if self.grows else values // num_holders

    def bits(self, column: int) -> int:
        """Return how many bits a value of a column takes on its way to a worker."""
        if self.grows:
            return 64
        own = self.columns[column]
        sharers = 1 if self.by_element else len(self.holders[own.vocabulary])
        return bits_of(own.size // sharers)

    def elements(self, dim: int, rank: int) -> Tensor:
        """Return the elements of vectors [D] that a worker has: all, where rows are divided."""
        if not self.by_element:
            return torch.arange(dim)
        return torch.arange(dim).tensor_split(self.size)[rank]

    def own_codes(self, vocabulary: str, size: int, rank: int) -> Tensor:
        """Return the codes 0..V of a static vocabulary that a worker has, in its order."""
        own = self.holders[vocabulary]
        if rank not in own:
            return torch.zeros(0, dtype=torch.long)
        return torch.arange(own.index(rank), size + 1, len(own))


def looked_up(schema: RankingSchema) -> tuple[RankingColumn, ...]:
    """Return the columns with rows in a table: categorical ones, then bags and histories."""
    return (*schema.of_kind("categorical"), *schema.of_kind("multi", "history"))


def by_hash(schema: RankingSchema, size: int) -> dict[str, tuple[int, ...]]:
    """Return the layout in which every worker has an equal share of every vocabulary."""
    return dict.fromkeys(schema.vocabularies, tuple(range(size)))
