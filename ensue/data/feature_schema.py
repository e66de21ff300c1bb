"""The features that a model reads: their columns, and the rows of a table of them.

Shapes: N items or users; row 0 of a table is padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ensue.data.features import Bags, FeatureColumn, FeatureTable
from ensue.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class FeatureSchema:
    """The columns of items and of users that a model reads."""

    items: tuple[FeatureColumn, ...] = ()
    users: tuple[FeatureColumn, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no column is read."""
        return not (self.items or self.users)

    def to_dict(self) -> dict[str, Any]:
        """Return the schema, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FeatureSchema:
        """Return the schema that `to_dict` stored; an empty one for {}."""
        return cls(**{side: tuple(FeatureColumn(**c) for c in stored[side]) for side in stored})


EMPTY = FeatureTable((), ())


def count_rows(table: FeatureTable) -> int:
    """Return the number N of rows of a table, padding not counted; 0 of one without columns."""
    if not table.values:
        return 0
    first = table.values[0]
    return len(first.offsets) - 2 if isinstance(first, Bags) else len(first) - 1


def select_columns(
    table: FeatureTable | None, names: Sequence[str] | None, *, setting: str
) -> FeatureTable:
    """Return the columns of these names, in their order; all of them for None.

    Args:
        table: None has no columns.
        setting: what the names were given as, for the message.

    Raises:
        ConfigError: there is no column of a name.
    """
    table = table or EMPTY
    if names is None:
        return table
    known = [column.name for column in table.columns]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) if known else " It has none: see ensue prepare."
            raise ConfigError(
                f"{setting} takes features of the dataset; {name!r} is none of them.{hint}"
            )
    places = [known.index(name) for name in names]
    return FeatureTable(
        tuple(table.columns[place] for place in places),
        tuple(table.values[place] for place in places),
    )


def append_rows(table: FeatureTable, added: FeatureTable) -> FeatureTable:
    """Return the rows of a table, and those of another with the same columns behind them.

    >>> color = (FeatureColumn("color", "categorical", 3),)
    >>> one, two = (FeatureTable(color, (np.array([0, code]),)) for code in (1, 3))
    >>> append_rows(one, two).values[0].tolist()
    [0, 1, 3]

    Raises:
        ValueError: the columns differ.
    """
    if table.columns != added.columns:
        raise ValueError(
            f"append_rows needs the columns {[c.name for c in table.columns]}; got "
            f"{[c.name for c in added.columns]}"
        )
    values: list[Any] = []
    for one, other in zip(table.values, added.values, strict=True):
        if isinstance(one, Bags) and isinstance(other, Bags):
            offsets = np.concatenate([one.offsets, other.offsets[2:] + one.offsets[-1]])
            values.append(Bags(np.concatenate([one.values, other.values]), offsets))
        else:
            arrays: list[Any] = [one, other]
            values.append(np.concatenate([arrays[0], arrays[1][1:]]))
    return FeatureTable(table.columns, tuple(values))
