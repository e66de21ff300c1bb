"""A model of items over several workers: tables of items are divided, the rest is with all of them.

Each worker computes its share of a batch. The weights after a step are those that one process gets
from the whole batch, up to the order of sums and what dropout draws.
Shapes: N workers, n numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ensue.distributed.fetch import Wanted
from ensue.distributed.replicas import add_up_
from ensue.distributed.shards import Piece
from ensue.distributed.shared_rows import SharedRows
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError
from ensue.models.base import Model
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.caser import Caser
from ensue.nn.embedding import grad_of

USERS = "user_embedding"  # the one table without a row of padding


class SharedItems(nn.Module):
    """A model whose tables of items, and of users, are with several workers.

    model: the model, with this worker's rows in the place of its tables.
    tables: those, by name. pieces: what of the parameters is not with all workers, by name.
    is_redundant: False; each worker computes a share of its own.

    Args:
        model: of the same weights on all workers; it gives up what others hold.
        divide: whether tables are divided; else all workers have all of them.

    Raises:
        ConfigError: the model has no such tables, or they grow.
    """

    is_redundant = False

    def __init__(self, model: Model, workers: Workers, *, divide: bool) -> None:
        super().__init__()
        self.model, self.workers = model, workers
        names = table_names(model)
        self.tables: dict[str, SharedRows] = {}
        for name in names if divide else ():
            path, _, own_name = name.rpartition(".")
            owner = model.get_submodule(path)
            whole = getattr(owner, own_name)
            delattr(owner, own_name)
            table = SharedRows(whole, workers, has_padding=name != USERS)
            setattr(owner, own_name, table)
            self.tables[name] = table
        self.pieces: dict[str, Piece] = {
            f"{name}.weight": table.piece for name, table in self.tables.items()
        }

    def owns(self, ids: Tensor) -> Tensor:
        """Return of which ids of tables that grow this worker has the rows [n]: there are none."""
        return torch.zeros_like(ids, dtype=torch.bool)

    def borrow_(self, names: Sequence[str], wanted: Wanted) -> None:
        """Fetch the rows of a batch from tables with equally many rows."""
        places = self.tables[names[0]].places(wanted)
        for name in names:
            self.tables[name].borrow_(wanted, places)

    def train(self, mode: bool = True) -> SharedItems:
        """Enter or leave training mode; vectors that are made of all rows wait for `whole`."""
        if mode:
            super().train(mode)
        else:
            self.training = False
            nn.Module.train(self.model, False)
        return self

    @contextmanager
    def whole(self) -> Iterator[Model]:
        """Yield the model in evaluation mode, with all rows of its tables in memory meanwhile."""
        for table in self.tables.values():
            table.gather_()
        try:
            self.model.train(False)
            yield self.model
        finally:
            for table in self.tables.values():
                table.drop_()

    def sum_gradients_(self, extra: Tensor) -> Tensor:
        """Give gradients to the owners of rows, add up those of the rest, and numbers with them.

        Args:
            extra: [n] numbers of this worker.

        Returns:
            The sums of the numbers over workers [n].
        """
        for table in self.tables.values():
            table.return_gradients_()
        named = self.model.named_parameters()
        grads = [grad_of(parameter) for name, parameter in named if name not in self.pieces]
        return add_up_(extra, grads, self.workers)

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Return the norm of the summed gradient of all parameters, the same on all workers."""
        squares: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            squares[name in self.pieces].append(grad_of(parameter).square().sum())
        zero = squares[False][0].new_zeros(())
        # Rows of padding, which all workers have, have no gradient.
        divided = self.workers.all_reduce_(sum(squares[True], zero).clone(), purpose="dense")
        return (divided + sum(squares[False], zero)).sqrt()


def table_names(model: Model) -> list[str]:
    """Return the names of the parameters that have a row for each item or user.

    Raises:
        ConfigError: there are none that can be divided.
    """
    if isinstance(model, Caser):
        names = [USERS, "item_embedding", "output_embedding", "output_bias"]
    elif isinstance(model, SequenceModel):
        names = ["item_embedding", "own_output", "item_bias"]
    elif isinstance(model, TwoTower):
        names = ["item_embedding.ids", "history_ids.ids"]
    else:
        raise ConfigError(
            "several workers train sasrec, gru4rec, m3, caser, two_tower, and the models of "
            f"ranking datasets; got {type(model).__name__}. Leave out --distributed."
        )
    if getattr(model.config, "growth", None) is not None:
        raise ConfigError(
            "tables of items that several workers train are static; got growth. Leave out "
            "growth, or --distributed."
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return [name for name in names if name in parameters]
