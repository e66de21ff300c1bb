"""Checkpoints of a training over several workers: each writes what it has.

```
checkpoints/last.json                      how many workers wrote which files; written last
checkpoints/last-STEPS-RANK.safetensors    of each worker
```
A checkpoint is whole or absent: the files of the one before stay until last.json names the new
ones. It is read by any number of workers, one among them: rows then go to whom they belong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ensue.distributed.shards import Piece, joined, local_part
from ensue.errors import RunError
from ensue.files import write_json
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.table_records import add_records_, records
from ensue.training.checkpoints import (
    Checkpoints,
    restore_training,
    save_tensors,
    training_state,
    under,
)
from ensue.training.shared_peers import SharedModel

Owns = Callable[[Tensor], Tensor]
PIECE = "piece."  # before the name of a parameter: which part of it the file has


class SharedCheckpoints(Checkpoints):
    """The checkpoints of a training whose model is with several workers, who all call each method.

    The folder is one that all workers write to.
    """

    def __init__(self, folder: Path, ranker: SharedModel) -> None:
        super().__init__(folder)
        self.ranker, self.workers = ranker, ranker.workers

    def exists(self, name: str) -> bool:
        """Return whether there is a checkpoint of this name."""
        return self._manifest(name).is_file()

    def save(
        self,
        name: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        gathered: dict[str, Tensor],
        counters: dict[str, Any],
    ) -> None:
        """Write the state of all that a training has, in the place of the last one of this name."""
        self._write(name, training_state(model, optimizer, gathered), counters)

    def load(
        self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Restore what `save` wrote, in place, whatever the number of workers that did.

        Raises:
            RunError: a file is missing or damaged.
        """
        tensors, counters = self._read(name)
        restore_training(tensors, model, optimizer)
        return under(tensors, "objective."), counters

    def save_weights(self, name: str, model: nn.Module) -> None:
        """Write the state of the model alone."""
        state = {f"model.{own}": value for own, value in model.state_dict().items()}
        self._write(name, state, {})

    def load_weights(self, name: str, model: nn.Module) -> None:
        """Restore what `save_weights` wrote."""
        tensors, _ = self._read(name)
        model.load_state_dict(under(tensors, "model."))

    def _write(self, name: str, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        for own, piece in self.ranker.pieces.items():
            axis = torch.tensor([piece.axis])
            tensors[f"{PIECE}{own}"] = torch.cat([axis, piece.places])
        before = json.loads(self._manifest(name).read_text()) if self.exists(name) else {}
        number = before.get("number", 0) + 1
        files = [f"{name}-{number}-{rank}.safetensors" for rank in range(self.workers.size)]
        save_tensors(self.folder / files[self.workers.rank], tensors, {})
        self.workers.barrier()  # all files are there
        if self.workers.rank == 0:
            stored = {"number": number, "files": files, "counters": counters}
            write_json(self._manifest(name), stored)
            for file in before.get("files", []):
                (self.folder / file).unlink(missing_ok=True)
        self.workers.barrier()

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        stored = json.loads(self._manifest(name).read_text(encoding="utf-8"))
        files = [self.folder / file for file in stored["files"]]
        rank, size = self.workers.rank, self.workers.size
        with _opened(files) as parts:
            if len(files) == size:
                return _tensors(parts[rank]), stored["counters"]
            tables = {f"model.{n}.": m for n, m in _tables(self.ranker).items()}
            tensors = _divided(parts, self.ranker.pieces, tables, self.ranker.owns)
        torch.manual_seed(rank)  # what is drawn in a worker's rows is of the new division
        tensors["generator.cpu"] = torch.get_rng_state()
        return tensors, stored["counters"]

    def _manifest(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def load_whole_(model: nn.Module, folder: Path, name: str) -> None:
    """Give a model, whole and on one process, the weights that workers have stored."""
    stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with _opened([folder / file for file in stored["files"]]) as parts:
        tables = {f"model.model.{n}.": m for n, m in _tables(model).items()}
        tensors = _divided(parts, {}, tables, lambda ids: torch.ones_like(ids, dtype=torch.bool))
    # What is known of rare values is no part of what the workers store.
    state = model.state_dict()
    for own, value in under(tensors, "model.model.").items():
        # A table of items is a module with a weight there.
        state[own if own in state else own.removesuffix(".weight")] = value
    model.load_state_dict(state)


@contextmanager
def _opened(files: list[Path]) -> Iterator[list[Any]]:
    """Yield the files, to be read tensor by tensor."""
    with ExitStack() as stack:
        for file in files:
            if not file.is_file():
                raise RunError(
                    f"a checkpoint of {len(files)} workers needs the file of each; {file} does "
                    "not exist. Its folder must be one that all workers write to."
                )
        yield [stack.enter_context(safe_open(file, framework="pt")) for file in files]


def _tensors(file: Any) -> dict[str, Tensor]:
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping


def _divided(
    parts: list[Any],
    pieces: Mapping[str, Piece],
    tables: Mapping[str, DynamicEmbedding],
    owns: Owns,
) -> dict[str, Tensor]:
    """Return what a worker has of what others stored, in another number.

    Args:
        parts: the files. pieces: of this worker. tables: those that grow, by what their tensors'
            names begin with. owns: of which ids in them it has the rows.
    """
    names = list(parts[0].keys())
    parameters = [name.removeprefix(PIECE) for name in names if name.startswith(PIECE)]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if name.startswith((PIECE, *tables)):
            continue
        stored = [part.get_tensor(name) for part in parts]
        tensors[name] = stored[0]
        for parameter in parameters:
            if name.split(".", 1)[1].startswith(f"model.{parameter}"):
                found = [_piece(part.get_tensor(f"{PIECE}{parameter}")) for part in parts]
                axis, places = found[0].axis, found[0].places
                if stored[0].shape[axis : axis + 1] == places.shape:  # not a count of steps, say
                    tensors[name] = local_part(joined(stored, found), pieces.get(parameter))
    for prefix, table in tables.items():
        own = _divided_table(parts, prefix, table, owns)
        tensors |= {f"{prefix}{name}": value for name, value in own.state_dict().items()}
    return tensors


def _piece(stored: Tensor) -> Piece:
    """Return the piece from its axis and its places in one tensor."""
    return Piece(int(stored[0]), stored[1:])


def _tables(model: nn.Module) -> dict[str, DynamicEmbedding]:
    return {n: m for n, m in model.named_modules() if isinstance(m, DynamicEmbedding)}


def _divided_table(
    parts: list[Any], prefix: str, like: DynamicEmbedding, owns: Owns
) -> DynamicEmbedding:
    """Return the table of a worker from those that others stored."""
    own: DynamicEmbedding | None = None
    for part in parts:
        state = {
            name.removeprefix(prefix): part.get_tensor(name)
            for name in part.keys()  # noqa: SIM118  # no mapping
            if name.startswith(prefix)
        }
        stored = DynamicEmbedding(like.dim, like.config, dtype=like.values.dtype)
        stored.load_state_dict(state)
        if own is None:
            own = DynamicEmbedding(like.dim, stored.config, dtype=like.values.dtype)
            own.step, own.forgotten = stored.step, stored.forgotten
        rows = records(stored)
        add_records_(own, rows.where(owns(rows.ids)))
        own.deleted = torch.cat([own.deleted, stored.deleted[owns(stored.deleted[:, 0])]])
        if own.sketch is not None and stored.sketch is not None:
            own.sketch.counts += stored.sketch.counts  # each has counted ids of its own
    assert own is not None
    return own
