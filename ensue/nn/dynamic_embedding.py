"""An embedding table for any 64-bit id: rows appear on first admitted sight and go when unused.

After what collision-free tables in production do: Liu et al., "Monolith: Real Time Recommendation
System With Collisionless Embedding Table", ORSUM 2022, arXiv:2209.07663 (admission by count,
expiry, incremental synchronization), and TensorFlow Recommenders Addons (a table beside the dense
parameters, state of the optimizer with the row). Ours: start values and draws are functions of
(seed, id) alone; nothing that holds weights is ever copied to grow.

An id without a row, at serving or before its admission, reads as zero: what a model saw of such
ids in training. The start value that others answer with is noise which nothing was trained on.
Id 0 is missing, and zero.

Shapes: D width, S state of a row; N ids, R distinct ones of a call; B bags.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ensue.nn.admission import CountSketch, is_drawn
from ensue.nn.bags import bag_mean, bag_sum
from ensue.nn.embedding import gather_rows
from ensue.nn.hashing import start_values
from ensue.nn.id_table import IdTable
from ensue.nn.read_rows import Part, ReadRows
from ensue.nn.row_kernels import note
from ensue.nn.row_rules import RowRule, update_slabs_
from ensue.nn.row_sums import group_rows
from ensue.nn.slabs import Slabs
from ensue.nn.table_config import Changes, TableConfig

STAMP, COUNT = 0, 1  # columns of what is noted of a row
MOST = 2**31 - 1  # sights that are counted


class DynamicEmbedding(nn.Module):
    """Vectors [D] of any int64 ids but 0.

    In training mode, where gradients are taken, new ids get rows; else nothing changes. The module
    has no parameters: a call of `apply_gradients_` behind each backward pass updates the rows that
    were read. Until then they are kept, so there must be one for each batch.

    is_flat: with dim=1, give a number for each id in place of a vector of one.
    version: another one whenever a row may have changed.
    """

    def __init__(
        self,
        dim: int,
        config: TableConfig | None = None,
        *,
        is_flat: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"DynamicEmbedding needs dim >= 1; got {dim}")
        self.dim, self.is_flat, self.version = dim, is_flat, 0
        self._begin(config or TableConfig(), dtype, torch.device(device))

    def _begin(self, config: TableConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Have no rows but row 0."""
        self.config, self.step, self.forgotten, self.unseen = config, 0, 0, 0
        self.version += 1
        self._pending = ReadRows()
        bits, width = config.slab_bits, self.dim + config.rule.state_width(self.dim)
        self.table = IdTable(bits=bits, device=device)
        self.values = Slabs(width, bits=bits, dtype=dtype, device=device)
        self.notes = Slabs(2, bits=bits, dtype=torch.int32, device=device)
        self.sketch: CountSketch | None = None
        if config.admission.min_count > 1:
            cells = config.admission.sketch_cells
            self.sketch = CountSketch(cells, seed=config.seed, device=device)
        self.deleted = torch.zeros(0, 2, dtype=torch.int64, device=device)  # ids, steps
        self._make_room()
        for slabs in (self.values, self.notes):
            slabs.tensors[0][0] = 0

    def use_rule_(self, rule: RowRule) -> None:
        """Have rows move by another rule: what their state is decides how wide they are.

        Raises:
            ValueError: there are rows of another rule already.
        """
        if rule == self.config.rule:
            return
        if len(self):
            raise ValueError(
                f"use_rule_ needs a table without rows, or the rule that they have; got "
                f"{rule.name!r} for {len(self)} rows of {self.config.rule.name!r}"
            )
        config = self.config.model_copy(update={"rule": rule})
        self._begin(config, self.values.dtype, self.device)

    def __len__(self) -> int:
        """Number of ids with a row."""
        return len(self.table)

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.values.device

    def extra_repr(self) -> str:
        """Return what `print` shows."""
        return f"dim={self.dim}, ids={len(self)}, rule={self.config.rule.name}"

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors [*ids.shape, D]."""
        return gather_rows(self, ids)

    def bag(self, values: Tensor, offsets: Tensor, mode: Literal["mean", "sum"] = "mean") -> Tensor:
        """Return the mean or the sum of the vectors of each bag [B, D]; 0 of an empty one.

        Ids that read as zero are among those of a mean.

        Args:
            values: [N]; offsets: [B + 1], bag b is values[offsets[b]:offsets[b + 1]].
        """
        if mode == "mean":
            return bag_mean(self, values, offsets)
        weights = torch.ones(len(values), dtype=self.values.dtype, device=self.device)
        return bag_sum(self, values, offsets, weights)

    def fetch(self, ids: Tensor) -> Part:
        """Return the rows of ids of any shape as a small table: for all that takes a static one.

        What the backward pass leaves in its `grad` is the gradient of these rows.
        """
        distinct, codes = group_rows(ids.reshape(-1))
        rows = self._admit(distinct, codes) if self.is_learning else self.table.find(distinct)
        return Part(self._take(rows), codes.view(ids.shape))

    def read(self, ids: Tensor) -> Tensor:
        """Return the rows of distinct ids [N], as `fetch` does, without a sight of them.

        None is admitted or counts as seen: for all items that a query is matched with.
        """
        if self.is_learning:
            self.unseen = self.step + 1
        return self._take(self.table.find(ids))

    @property
    def is_learning(self) -> bool:
        """Whether what is read now gets a gradient, and ids are seen."""
        return self.training and torch.is_grad_enabled()

    def _take(self, rows: Tensor) -> Tensor:
        """Return rows [R] as a table; in training it waits for its gradient."""
        table = self.values.take(rows, self.dim)
        if self.is_flat:
            table = table.squeeze(1)
        if self.is_learning:
            self._pending.add(rows, table)
        return table

    def admit_(self, ids: Tensor) -> None:
        """Let ids be seen, as in training, without a step: those admitted get rows."""
        self._admit(*group_rows(ids.reshape(-1)))

    @torch.no_grad()
    def _admit(self, distinct: Tensor, codes: Tensor) -> Tensor:
        """Return the rows of distinct ids [R], 0 of those not admitted; codes: of all sights."""
        counts = codes.bincount(minlength=len(distinct))
        if self.config.admission.admits_all:
            rows, new = self.table.insert(distinct)
        else:
            rows = self.table.find(distinct)
            unknown = ((rows == 0) & (distinct != 0)).nonzero().squeeze(1)
            new = unknown[self._is_admitted(distinct[unknown], counts[unknown])]
            rows[new], _ = self.table.insert(distinct[new])
        self._start(rows[new], distinct[new])
        self._note(rows, counts, self.step + 1)
        return rows

    def _is_admitted(self, ids: Tensor, counts: Tensor) -> Tensor:
        rule, is_enough = self.config.admission, torch.ones_like(ids, dtype=torch.bool)
        if self.sketch is not None:
            is_enough = self.sketch.add(ids, counts) >= rule.min_count
        if rule.probability == 1.0:
            return is_enough
        return is_enough & is_drawn(
            ids, counts, probability=rule.probability, seed=self.config.seed, step=self.step
        )

    def _start(self, rows: Tensor, ids: Tensor) -> None:
        """Write the start values of new rows."""
        self.version += 1
        self._make_room()
        config, values = self.config, self.values
        block = values.tensors[0].new_full((len(rows), values.width), config.rule.first_state)
        block[:, : self.dim] = start_values(
            ids,
            self.dim,
            seed=config.seed,
            name=config.start,
            scale=config.start_scale,
            dtype=values.dtype,
        )
        values.put(rows, block)
        self.notes.put(rows, torch.zeros(len(rows), 2, dtype=torch.int32, device=self.device))

    def _note(self, rows: Tensor, counts: Tensor, stamp: int) -> None:
        """Note that rows [R] were seen, `counts` times each, and changed in a step."""
        notes = self.notes
        if notes.is_compiled:
            note(notes.pointers(), notes.bits, rows.numpy(), counts.numpy(), stamp, MOST)
            return
        own = notes.take(rows)
        own[:, STAMP] = stamp
        own[:, COUNT] = (own[:, COUNT].long() + counts).clamp(max=MOST).int()
        own[rows == 0] = 0  # of all ids without a row
        notes.put(rows, own)

    def _make_room(self) -> None:
        self.values.reserve(self.table.num_rows)
        self.notes.reserve(self.table.num_rows)

    def read_rows(self) -> list[Tensor]:
        """Return what has the gradient that the next step is taken along, to clip it."""
        return self._pending.merge()

    @torch.no_grad()
    def apply_gradients_(self, lr: float) -> None:
        """Take one step of the rows read since the last one; from time to time, let rows go."""
        self.step += 1
        self.version += 1
        if (read := self._pending.take()) is not None:
            rows, grad = read[0], read[1].reshape(-1, self.dim)
            update_slabs_(self.values, rows, grad, self.config.rule, lr=lr, step=self.step)
        if self.config.expiry.is_on and self.step % self.config.expiry.every == 0:
            self.expire_()

    @torch.no_grad()
    def expire_(self) -> Tensor:
        """Let the rows go that the rules of `Expiry` name, and return their ids."""
        rule = self.config.expiry
        gone = []
        for ids, notes in self._by_slab():
            is_over = rule.is_over(self.step - notes[:, STAMP], notes[:, COUNT])
            gone.append(ids[is_over & (ids != 0)])
        ids = torch.cat(gone)
        self.delete_(ids)
        if self.sketch is not None:
            self.sketch.halve()
        return ids

    def delete_(self, ids: Tensor) -> None:
        """Take their rows from distinct ids, and remember it for `export_changes`."""
        self.version += 1
        ids = ids[self.table.find(ids) != 0]
        self.table.delete(ids)
        steps = torch.full_like(ids, self.step)
        self.deleted = torch.cat([self.deleted, torch.stack([ids, steps], dim=1)])

    def _by_slab(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the ids [R] and the notes [R, 2] of the rows of each slab."""
        num_rows = self.table.num_rows
        slabs = zip(self.table.ids.parts(num_rows), self.notes.parts(num_rows), strict=True)
        for ids, notes in slabs:
            yield ids.squeeze(1), notes

    def export_changes(self, since: int = 0) -> Changes:
        """Return what changed after the step `since`, or with 0 all; call it between two steps.

        All rows count as changed by a step in which ids were read without a sight of them.

        Raises:
            ValueError: the deletions since then were forgotten.
        """
        if 0 < since < self.forgotten:
            raise ValueError(
                f"export_changes needs since = 0 (all) or since >= {self.forgotten}, up to where "
                f"deletions were forgotten; got {since}"
            )
        found = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        for number, (ids, notes) in enumerate(self._by_slab()):
            is_changed = (ids != 0) & ((notes[:, STAMP] > since) | (self.unseen > since))
            found.append(is_changed.nonzero().squeeze(1) + (number << self.values.bits))
        rows = torch.cat(found)
        ids = self.table.ids.take(rows).squeeze(1)
        deleted = self.deleted[(self.deleted[:, 1] >= since) & (since > 0), 0]
        weights = self.values.take(rows, self.dim)
        return Changes(since, self.step, ids, weights, torch.unique(deleted))

    @torch.no_grad()
    def apply_changes_(self, changes: Changes) -> None:
        """Become, from what the other table was at `changes.since`, what it is now.

        The state of the optimizer is not among the changes: new rows start with theirs.

        Raises:
            ValueError: changes before these are missing.
        """
        if changes.since > self.step:
            raise ValueError(
                f"apply_changes_ needs changes since step {self.step} or before; got those since "
                f"{changes.since}. Apply the ones between them first."
            )
        if changes.since == 0:
            self.table = IdTable(bits=self.config.slab_bits, device=self.device)
        self.step = changes.step
        self.delete_(changes.deleted.to(self.device))
        ids = changes.ids.to(self.device)
        rows, new = self.table.insert(ids)
        self._start(rows[new], ids[new])
        self.values.put(rows, changes.rows.to(self.values.dtype).to(self.device))
        self._note(rows, torch.zeros_like(rows), self.step)

    def forget_deletions_(self, before: int) -> None:
        """Drop what is remembered of deletions before a step: 16 bytes for each."""
        self.deleted = self.deleted[self.deleted[:, 1] >= before]
        self.forgotten = max(self.forgotten, before)

    def num_bytes(self) -> dict[str, int]:
        """Return the bytes of memory that each part of the table takes."""
        return {
            "values": self.values.num_bytes,
            "index": self.table.num_bytes,
            "notes": self.notes.num_bytes,
            "deleted": self.deleted.nbytes,
            "sketch": 0 if self.sketch is None else self.sketch.counts.nbytes,
        }

    def _state(self) -> dict[str, Tensor]:
        """Return all of the table as tensors; the large ones share its memory."""
        settings = json.dumps({"dim": self.dim, **self.config.model_dump()}).encode()
        state = {
            "settings": torch.frombuffer(bytearray(settings), dtype=torch.uint8),
            "counters": torch.tensor([self.step, self.forgotten, self.unseen]),
            "deleted": self.deleted,
            **self.table.state(),
        }
        for name, slabs in (("values", self.values), ("notes", self.notes)):
            parts = enumerate(slabs.parts(self.table.num_rows))
            state |= {f"{name}.{number}": part for number, part in parts}
        if self.sketch is not None:
            state["sketch"] = self.sketch.counts
        return state

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination.update({prefix + name: value for name, value in self._state().items()})

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Become the table that was saved, of whatever size, with its settings."""
        own = {
            name.removeprefix(prefix): value
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }
        if "settings" not in own:
            missing_keys.append(prefix + "settings")
            return
        settings = json.loads(bytes(own["settings"].tolist()))
        if (dim := settings.pop("dim")) != self.dim:
            error_msgs.append(
                f"{prefix or 'the table'} needs dim {self.dim}; got one of dim {dim}."
            )
            return
        self._begin(TableConfig(**settings), self.values.dtype, self.device)
        self.step, self.forgotten, *later = own["counters"].tolist()
        self.unseen = later[0] if later else 0  # of a table that was stored without
        self.deleted = own["deleted"].to(self.device, copy=True)
        self.table.load({name: own[name] for name in own if name == "free" or "ids." in name})
        for kind, slabs in (("values", self.values), ("notes", self.notes)):
            count = sum(name.startswith(f"{kind}.") for name in own)
            slabs.load([own[f"{kind}.{number}"] for number in range(count)])
        if self.sketch is not None:
            self.sketch.counts.copy_(own["sketch"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DynamicEmbedding:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.values.map(fn)
        self.notes.map(lambda slab: slab.to(self.device))
        self.table.to(self.device)
        self.deleted = self.deleted.to(self.device)
        if self.sketch is not None:
            self.sketch.counts = self.sketch.counts.to(self.device)
        self._pending = ReadRows()
        self.version += 1
        return self
