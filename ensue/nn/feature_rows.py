"""The features of all items, or of all users, as tensors that move with a model, and rows of them.

Shapes: N items or users (row 0 is padding), n rows taken, C categorical columns, K numeric ones, S
values of the bags of the rows taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from ensue.data.features import Bags, FeatureColumn, FeatureTable
from ensue.nn.jagged import take_rows


class BagRows(NamedTuple):
    """Values of the bags of n rows: those of row r are values[offsets[r]:offsets[r + 1]]."""

    values: Tensor
    offsets: Tensor


class FeatureRows(NamedTuple):
    """Values of n rows, by column: codes [n] int64, `BagRows`, numbers [n, 1] or vectors [n, D]."""

    values: tuple[Tensor | BagRows, ...]


class FeatureValues(nn.Module):
    """A feature table as buffers, in the order of `columns`.

    The table of a new model is filled in; that of a stored one comes back with its state.
    """

    def __init__(self, columns: Sequence[FeatureColumn], *, num_rows: int) -> None:
        super().__init__()
        self.columns = tuple(columns)
        for number, column in enumerate(self.columns):
            if column.kind == "multi":
                # How many values there are is known once they are filled in or loaded.
                self.register_buffer(f"values_{number}", UninitializedBuffer())
                self.register_buffer(
                    f"offsets_{number}", torch.zeros(num_rows + 2, dtype=torch.long)
                )
            elif column.kind == "categorical":
                codes = torch.zeros(num_rows + 1, dtype=torch.int32)
                self.register_buffer(f"values_{number}", codes)
            else:
                numbers = torch.zeros(num_rows + 1, column.size)
                self.register_buffer(f"values_{number}", numbers)

    def fill_(self, table: FeatureTable) -> None:
        """Take the values of a table with these columns."""
        for number, values in enumerate(table.values):
            for name, tensor in _tensors(values).items():
                full_name = f"{name}_{number}"
                setattr(self, full_name, tensor.to(self._device(full_name)))

    def take(self, rows: Tensor) -> FeatureRows:
        """Return the values of rows [n]."""
        taken: list[Tensor | BagRows] = []
        for number, column in enumerate(self.columns):
            values = getattr(self, f"values_{number}")
            if column.kind == "multi":
                offsets = getattr(self, f"offsets_{number}")
                positions, _ = take_rows(offsets, rows)
                lengths = offsets[rows + 1] - offsets[rows]
                own = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
                taken.append(BagRows(values[positions].long(), own))
            else:
                own = values.index_select(0, rows)
                taken.append(own.long() if column.kind == "categorical" else own)
        return FeatureRows(tuple(taken))

    def table(self) -> FeatureTable:
        """Return the values as arrays."""
        values: list[Any] = []
        for number, column in enumerate(self.columns):
            own = getattr(self, f"values_{number}").cpu().numpy()
            if column.kind == "multi":
                values.append(Bags(own, getattr(self, f"offsets_{number}").cpu().numpy()))
            else:
                values.append(own[:, 0] if column.kind == "numeric" else own)
        return FeatureTable(self.columns, tuple(values))

    def _device(self, name: str) -> torch.device:
        buffer: Tensor = getattr(self, name)
        return buffer.device


def rows_of(table: FeatureTable, device: torch.device) -> FeatureRows:
    """Return the values of the rows 1, 2, ... of a table that no model holds."""
    taken: list[Tensor | BagRows] = []
    for values in table.values:
        tensors = {name: tensor.to(device) for name, tensor in _tensors(values).items()}
        if "offsets" in tensors:
            taken.append(BagRows(tensors["values"].long(), tensors["offsets"][1:]))
        else:
            own = tensors["values"][1:]
            taken.append(own if own.is_floating_point() else own.long())
    return FeatureRows(tuple(taken))


def _tensors(values: Any) -> dict[str, Tensor]:
    """Return the tensors of a column, in memory of their own."""
    if isinstance(values, Bags):
        return {
            "values": torch.from_numpy(np.array(values.values, dtype=np.int32)),
            "offsets": torch.from_numpy(np.array(values.offsets, dtype=np.int64)),
        }
    if np.issubdtype(values.dtype, np.integer):
        return {"values": torch.from_numpy(np.array(values, dtype=np.int32))}
    numbers = torch.from_numpy(np.array(values, dtype=np.float32))
    return {"values": numbers if numbers.dim() == 2 else numbers[:, None]}
