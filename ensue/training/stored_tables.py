"""Growing tables in the checkpoints of workers: whole, or what changed since a whole one.

Names of tensors begin with that of the table. A whole one has the table's own state. Else there are
```
changed.ids, values, notes    rows seen since, with the state of their optimizer
changed.deleted               ids that lost their row since, and the steps
changed.counters, sketch      as they are now
```
Deletions come first: an id that was seen again after one has a row.
Shapes: R rows, N deletions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.table_records import Records, add_records_, changed_records, records

Owns = Callable[[Tensor], Tensor]
CHANGED = "changed."


class Stored(NamedTuple):
    """The open files of a worker's checkpoint: its own, and the whole one that it goes on from.

    base: None where the file itself is whole.
    """

    file: Any
    base: Any | None


def changes(table: DynamicEmbedding, since: int) -> dict[str, Tensor]:
    """Return what became of a table after the step `since`, to be stored."""
    rows = changed_records(table, since)
    found = {
        **rows._asdict(),
        "deleted": table.deleted[table.deleted[:, 1] >= since],
        "counters": torch.tensor([table.step, table.forgotten, table.unseen]),
    }
    if table.sketch is not None:
        found["sketch"] = table.sketch.counts
    return {f"{CHANGED}{name}": value for name, value in found.items()}


def read_table(stored: Stored, prefix: str, like: DynamicEmbedding) -> DynamicEmbedding:
    """Return the table of a worker; names of its tensors begin with `prefix`."""
    own = _under(stored.file, prefix)
    table = DynamicEmbedding(like.dim, like.config, dtype=like.values.dtype)
    if stored.base is None:
        table.load_state_dict(own)
        return table
    table.load_state_dict(_under(stored.base, prefix))
    changed = {name.removeprefix(CHANGED): value for name, value in own.items()}
    deleted = changed["deleted"]
    kept = table.deleted
    table.delete_(torch.unique(deleted[:, 0]))
    add_records_(table, Records(changed["ids"], changed["values"], changed["notes"]))
    table.step, table.forgotten, table.unseen = changed["counters"].tolist()
    since = int(_under(stored.base, prefix)["counters"][0])
    table.deleted = torch.cat([kept[kept[:, 1] < since], deleted])
    if table.sketch is not None:
        table.sketch.counts.copy_(changed["sketch"])
    return table


def read_divided_table(
    parts: Sequence[Stored], prefix: str, like: DynamicEmbedding, owns: Owns
) -> DynamicEmbedding:
    """Return the table of a worker from those of others, in another number.

    Args:
        owns: of which ids the worker has the rows.
    """
    first = read_table(parts[0], prefix, like)
    own = DynamicEmbedding(like.dim, first.config, dtype=like.values.dtype)
    own.step, own.forgotten, own.unseen = first.step, first.forgotten, first.unseen
    for number, part in enumerate(parts):
        stored = first if number == 0 else read_table(part, prefix, like)
        rows = records(stored)
        add_records_(own, rows.where(owns(rows.ids)))
        own.deleted = torch.cat([own.deleted, stored.deleted[owns(stored.deleted[:, 0])]])
        if own.sketch is not None and stored.sketch is not None:
            own.sketch.counts += stored.sketch.counts  # each has counted ids of its own
    return own


def _under(file: Any, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a file whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): file.get_tensor(name)
        for name in file.keys()  # noqa: SIM118  # no mapping
        if name.startswith(prefix)
    }
