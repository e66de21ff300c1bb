"""The first weights of a student: the tables of its teacher, in fewer dimensions.

A table E [N, D_t] becomes E V [N, D_s], V its D_s leading right singular vectors: no table of rank
D_s keeps more of the products of its rows (Eckart and Young, 1936). The layers between the tables
start at random and learn to work on them. Ours; the paper's students start at random.
Shapes: N rows, D_t and D_s widths of the teacher and of the student.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ensue.errors import UsageError
from ensue.models.base import Model
from ensue.models.sequential.caser import Caser

BLOCK_ROWS = 1 << 16  # added up at a time


def check_start(student: type[Model], dim: int, teacher: Model) -> None:
    """Check that a student of a family and a width can begin with a teacher's tables.

    Raises:
        UsageError: it is of another family, or wider; or the teacher's tables grow.
    """
    if student is not type(teacher):
        raise UsageError(
            "a student that starts with its teacher's tables is of the teacher's family, "
            f"{type(teacher).__name__}; got {student.__name__}. Use start=random."
        )
    if teacher.config.growth is not None:
        raise UsageError(
            "a student that starts with its teacher's tables needs static ones; those of the "
            "teacher grow (growth). Use start=random."
        )
    if dim > teacher.config.dim:
        raise UsageError(
            "a student that starts with its teacher's tables is not wider than the teacher; got "
            f"dim={dim} for {teacher.config.dim}. Use start=random, or a smaller dim."
        )


@torch.no_grad()
def start_from_teacher_(student: Model, teacher: Model) -> None:
    """Give the student its teacher's tables, each in the student's width, and biases of items.

    Both are of one family, as `check_start` checks.
    """
    own, given = dict(student.named_parameters()), dict(teacher.named_parameters())
    counts = (student.num_items + 1, student.num_users, student.num_users + 1)
    shared = {name: tensor for name, tensor in own.items() if len(tensor) in counts}
    tables: dict[str, Tensor] = {}
    if isinstance(student, Caser):
        tables = _caser_tables(given, student.config.dim)
    for name in shared.keys() & given.keys():
        if name not in tables:
            is_bias = own[name].dim() == 1
            tables[name] = given[name] if is_bias else reduce_table(given[name], own[name].shape[1])
    for name, table in tables.items():
        own[name].copy_(table)


def reduce_table(table: Tensor, width: int) -> Tensor:
    """Return the rows of a table [N, D_t] in their `width` leading directions [N, width].

    >>> table = torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    >>> reduced = reduce_table(table, 1)
    >>> torch.allclose(reduced @ reduced.T, table @ table.T)
    True
    """
    return _times(table, leading_directions(table, width))


def leading_directions(table: Tensor, width: int) -> Tensor:
    """Return the `width` leading right singular vectors [D_t, width] of a table, in float64."""
    products = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64)
    for rows in torch.split(table, BLOCK_ROWS):
        block = rows.double().cpu()
        products += block.T @ block
    _, vectors = torch.linalg.eigh(products)  # ascending
    return vectors.flip(1)[:, :width]


def _caser_tables(given: Mapping[str, Tensor], dim: int) -> dict[str, Tensor]:
    """Return what users are multiplied with, and they themselves, in the same directions."""
    of_sequence, of_user = given["output_embedding"].chunk(2, dim=1)
    directions = leading_directions(of_user, dim)
    outputs = [reduce_table(of_sequence, dim), _times(of_user, directions)]
    return {
        "output_embedding": torch.cat(outputs, dim=1),
        "user_embedding": _times(given["user_embedding"], directions),
    }


def _times(table: Tensor, directions: Tensor) -> Tensor:
    return torch.cat([rows @ directions.to(rows) for rows in torch.split(table, BLOCK_ROWS)])
