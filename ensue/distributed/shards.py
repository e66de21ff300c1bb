"""What each worker holds of a model: pieces of its tables, and all of the rest.

A model is made whole, the same on every worker, and then gives up what others hold. Tables that
grow are made empty, so that only static ones are ever whole in one place.
Shapes: R rows of a table, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ensue.distributed.owners import Owners
from ensue.errors import ConfigError
from ensue.nn.field_embedding import FieldEmbedding
from ensue.nn.field_tables import StaticTable


class Piece(NamedTuple):
    """What a worker holds of a tensor: tensor.index_select(axis, places).

    places: int64, distinct. shared: how many of the last ones all workers hold.
    """

    axis: int
    places: Tensor
    shared: int = 0


def keep_own_(
    fields: FieldEmbedding, owners: Owners, rank: int, *, whole_rows: bool = False
) -> dict[str, Piece]:
    """Leave of the table of `fields` what this worker has, and return the pieces by name.

    Args:
        whole_rows: divide rows among all workers where the layout divides vectors by element.

    Raises:
        ConfigError: histories are attended to, or the layout does not fit the table.
    """
    if len(fields.attention):
        raise ConfigError(
            "distributed training sums the values of a history where their rows are, and "
            "history='attention' weighs each by the row that it is for. Use history='mean'."
        )
    table = fields.table
    if not isinstance(table, StaticTable):
        if owners.by_element:
            raise ConfigError(
                "tables that grow are divided by rows; got a layout that divides vectors by "
                "element. Use layout hash or field."
            )
        return {}
    if owners.by_element and not whole_rows:
        piece = Piece(1, owners.elements(fields.dim, rank))
        keep_piece_(table, "weight", piece)
        return {"table.weight": piece}
    index, sizes = [], {}
    for (part, size), first in zip(table.sizes.items(), table.first_rows.tolist(), strict=True):
        codes = owners.own_codes(fields.vocabulary_of[part], size, rank)
        sizes[part] = len(codes) - 1
        index.append(first + codes)
    kept = torch.cat(index)
    # Values seen too seldom are taken for unknown before they are sent.
    own = StaticTable(sizes, fields.dim)
    own.weight = nn.Parameter(table.weight.detach()[kept].clone())
    own.is_sparse = table.is_sparse
    fields.table = own.to(table.weight.device)
    return {"table.weight": Piece(0, kept)}


def keep_piece_(module: nn.Module, name: str, piece: Piece) -> None:
    """Leave of a parameter what this worker holds."""
    whole = getattr(module, name)
    setattr(module, name, nn.Parameter(whole.detach().index_select(piece.axis, piece.places)))


def local_part(whole: Tensor, piece: Piece | None) -> Tensor:
    """Return what a worker holds of a tensor of the whole model."""
    return whole if piece is None else whole.index_select(piece.axis, piece.places)


def joined(parts: list[Tensor], pieces: list[Piece]) -> Tensor:
    """Return the whole of which workers hold these parts; all of it is held by some."""
    axis = pieces[0].axis
    shape = list(parts[0].shape)
    shape[axis] = 1 + max(int(piece.places.max()) for piece in pieces if len(piece.places))
    whole = parts[0].new_zeros(shape)
    for part, piece in zip(parts, pieces, strict=True):
        whole.index_copy_(axis, piece.places, part)
    return whole


def under(prefix: str, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    """Return the pieces of a module by their names in the model."""
    return {f"{prefix}{name}": piece for name, piece in pieces.items()}
