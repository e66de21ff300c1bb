"""The items of a catalogue as rows of a growing table.

Models and batches speak of items by codes 1..I; the table finds their rows by ids that do not
depend on what else the catalogue holds. What an item is seen by are the events of a batch: to be a
candidate, drawn or one of all items, is no sight. So admission and expiry tell of the log, and a
catalogue may have many more items than there are rows.
Shapes: I items, D width, N codes, R rows of a part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.read_rows import Part
from ensue.nn.row_sums import group_rows
from ensue.nn.table_config import TableConfig


class GrowingItems(nn.Module):
    """A vector [D] for each item that has a row, and zero for each that has none; code 0 is none.

    Look-ups of `nn.embedding` take it where they take a static table [I + 1, D].

    ids: [I + 1] int64, of the items; at first their codes. Id 0 is padding.

    Args:
        dim: D; None gives a number for each item, as a static table [I + 1] does.
        std: of the start values, as those of the static table; where `config` has other settings
            of a start than the defaults, it decides.
        place: which of the model's tables this is: no two begin alike.
    """

    ids: Tensor

    def __init__(
        self,
        num_items: int,
        dim: int | None,
        config: TableConfig,
        *,
        std: float,
        place: int = 0,
    ) -> None:
        super().__init__()
        default = TableConfig()
        update: dict[str, Any] = {"seed": config.seed + place}
        is_default = (config.start, config.start_scale) == (default.start, default.start_scale)
        if is_default or std == 0:
            update |= {"start": "normal", "start_scale": std}
        is_flat = dim is None
        self.rows = DynamicEmbedding(dim or 1, config.model_copy(update=update), is_flat=is_flat)
        self.register_buffer("ids", torch.arange(num_items + 1))
        self._whole: Tensor | None = None
        self._whole_key: tuple[int, bool, bool] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the static table in whose place this is."""
        return (len(self.ids),) if self.rows.is_flat else (len(self.ids), self.rows.dim)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows."""
        return self.rows.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.rows.device

    def name_(self, ids: Tensor) -> None:
        """Find the rows by other ids [I + 1], the first of them 0.

        Raises:
            ValueError: there is not one for each item, or two items have the same.
        """
        if ids.shape != self.ids.shape or int(ids[0]) != 0:
            raise ValueError(
                f"name_ needs ids [{len(self.ids)}], 0 and one for each item; got "
                f"{tuple(ids.shape)} that begin with {ids[:1].tolist()}"
            )
        ascending = ids.sort().values
        if (again := ascending[1:] == ascending[:-1]).any():
            twice = int(ascending[1:][again][0])
            raise ValueError(f"name_ needs another id for each item; got {twice} more than once")
        self.ids = ids.to(self.ids.device, copy=True)
        self._whole_key = None

    def see_(self, codes: Tensor) -> None:
        """Take note, in training, that items of any shape were seen; those admitted get rows."""
        if self.rows.is_learning:
            self.rows.admit_(self.ids[codes])

    def whole(self) -> Tensor:
        """Return the vectors of all items [I + 1, D], read once until a row changes.

        In training that is once a step, and the items' look-ups of the same step read from it too.
        """
        if self._whole is None or self._whole_key != self._key():
            self._whole, self._whole_key = self.rows.read(self.ids), self._key()
        return self._whole

    def fetch(self, codes: Tensor) -> Part:
        """Return the rows of codes of any shape as a small table, whose row 0 is padding's."""
        if self._whole is not None and self._whole_key == self._key():
            return Part(self._whole, codes)
        padding = codes.new_zeros(1)
        distinct, own = group_rows(torch.cat([padding, codes.reshape(-1)]))
        return Part(self.rows.read(self.ids[distinct]), own[1:].view(codes.shape))

    def _key(self) -> tuple[int, bool, bool]:
        """Return what differs whenever the whole table must be read anew."""
        return self.rows.version, self.rows.is_learning, torch.is_inference_mode_enabled()


def item_tables(model: nn.Module) -> list[GrowingItems]:
    """Return the growing tables of items of a model; none where all are static."""
    return [module for module in model.modules() if isinstance(module, GrowingItems)]


def see_items_(model: nn.Module, *codes: Tensor) -> None:
    """Let all growing tables of a model see the items of a batch, of any shapes."""
    if tables := item_tables(model):
        seen = torch.cat([some.reshape(-1) for some in codes])
        for table in tables:
            table.see_(seen)


def name_items_(model: nn.Module, ids: Tensor) -> None:
    """Let all growing tables of a model find the items by ids [I + 1]; see `GrowingItems.name_`."""
    for table in item_tables(model):
        table.name_(ids)


def take_rows_(model: nn.Module, other: nn.Module) -> None:
    """Let the growing tables of a new model begin with the rows of another model of its kind.

    Items are found by their ids, which `name_items_` gave; the catalogues may differ. The state of
    the optimizer begins anew, and counts of sights do.

    Raises:
        ValueError: the models do not have the same number of growing tables, or one has rows.
    """
    own, given = item_tables(model), item_tables(other)
    if len(own) != len(given) or any(len(table.rows) for table in own):
        raise ValueError(
            f"take_rows_ needs as many growing tables without rows as the other model has, "
            f"{len(given)}; got tables of {[len(table.rows) for table in own]} rows"
        )
    for table, source in zip(own, given, strict=True):
        table.rows.apply_changes_(replace(source.rows.export_changes(), step=0))


def all_rows(table: Tensor | GrowingItems) -> Tensor:
    """Return a table of items as a tensor [I + 1, D]."""
    return table if isinstance(table, Tensor) else table.whole()


def count_numbers(model: nn.Module) -> int:
    """Return how many numbers the state of a model has: of growing tables, the vectors' alone."""
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    for module in model.modules():
        if isinstance(module, DynamicEmbedding):
            total += len(module) * module.dim
            total -= sum(tensor.numel() for tensor in module.state_dict().values())
    return total
