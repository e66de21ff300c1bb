"""A table of which each worker has some rows, for models that look rows up by `nn.embedding`.

What a batch needs is borrowed first, then looked up as often as the model likes, and at the end the
gradients of all look-ups go back at once.
Shapes: N workers; V rows of the whole table, V_r of this worker; R borrowed rows; D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensue.distributed.fetch import Division, Wanted, exchange_wanted, fetch
from ensue.distributed.shards import Piece
from ensue.distributed.workers import Workers
from ensue.nn.read_rows import Part


class SharedRows(nn.Module):
    """The rows of one worker, in the place of a parameter [V, D] or [V].

    weight: [V_r, D] or [V_r]. division: which worker has which row.

    Args:
        whole: the table, the same on all workers; this one keeps its rows.
        has_padding: whether row 0 is padding, zero and with all workers.
    """

    def __init__(self, whole: Tensor, workers: Workers, *, has_padding: bool) -> None:
        super().__init__()
        self.workers = workers
        self.division = Division(len(whole), workers.size, has_padding)
        self.piece = Piece(0, self.division.own_ids(workers.rank))
        self.weight = nn.Parameter(whole.detach().index_select(0, self.piece.places))
        self._places = torch.zeros(0, dtype=torch.int32)
        self._leaf = torch.zeros(0)
        self._rows: Tensor | None = None
        self._whole: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole table."""
        return (self.division.num_rows, *self.weight.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.weight.device

    def ask(self, ids: Tensor) -> Wanted:
        """Return what is to be borrowed for a batch with these ids; all workers ask together."""
        return exchange_wanted(ids, self.division, self.workers)

    def places(self, wanted: Wanted) -> Tensor:
        """Return where rows of the table are among the wanted ones [V] int32; of others, anything.

        It is the memory of the last batch, made once: looking an id up costs one read of it, where
        a search among the wanted ones would cost many.
        """
        num_rows, device = self.division.num_rows, wanted.keys.device
        if len(self._places) != num_rows or self._places.device != device:
            self._places = torch.zeros(num_rows, dtype=torch.int32, device=device)
        numbers = torch.arange(len(wanted.keys), dtype=torch.int32, device=device)
        self._places[self.division.ids(wanted.keys)] = numbers
        return self._places

    def borrow_(self, wanted: Wanted, places: Tensor) -> None:
        """Fetch the rows of a batch, from which `fetch` looks up until the next ones are there.

        Args:
            places: of the rows, from this table or another one that is asked for the same.
        """
        has_padding = self.division.has_padding
        self._places = places
        self._rows = fetch(self.weight, wanted, self.workers, has_padding=has_padding)
        # Look-ups add to the gradient of a leaf, where all of them meet before it is sent.
        self._leaf = self._rows.detach().requires_grad_()

    def fetch(self, ids: Tensor) -> Part:
        """Return the rows of borrowed ids of any shape as a small table, or all rows, if there."""
        if self._whole is not None:
            return Part(self._whole, ids)
        return Part(self._leaf, self._places[ids].long())

    def return_gradients_(self) -> None:
        """Give the gradients of borrowed rows, if any, to their owners, behind the backward pass.

        All workers borrow from the same tables.
        """
        if self._rows is None:
            return
        grad = self._leaf.grad
        self._rows.backward(torch.zeros_like(self._leaf) if grad is None else grad)  # type: ignore[no-untyped-call]
        self._rows, self._leaf = None, torch.zeros(0)

    def whole(self) -> Tensor:
        """Return the table [V, D] that `gather_` has made.

        Raises:
            RuntimeError: it has not.
        """
        if self._whole is None:
            raise RuntimeError("whole needs gather_ before it: the table is with several workers")
        return self._whole

    @torch.no_grad()
    def gather_(self) -> None:
        """Have all rows here, until `drop_`; all workers call it."""
        division, first = self.division, int(self.division.has_padding)
        own = self.weight.detach()
        most = division.width - first
        padded = own.new_zeros(most, *own.shape[1:])
        padded[: len(own) - first] = own[first:]
        rows = self.workers.all_gather(padded, purpose="other")
        in_turn = rows.view(division.size, most, *own.shape[1:]).transpose(0, 1).flatten(0, 1)
        self._whole = own.new_zeros(self.shape)
        self._whole[first:] = in_turn[: division.num_rows - first]

    def drop_(self) -> None:
        """Have the own rows alone."""
        self._whole = None
