"""Checkpoints of a training over several workers: each writes what it has.

```
checkpoints/last.json                       how many workers wrote which files; written last
checkpoints/last-NUMBER-RANK.safetensors    of each worker
```
A checkpoint is whole or absent: the files of the one before stay until last.json names the new
ones. It is read by any number of workers, one among them: rows then go to whom they belong.
Of tables that grow, most checkpoints have only what changed since the last one with all of them;
last.json then names the files of that one too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ensue.distributed.shards import Piece, joined, local_part
from ensue.errors import RunError
from ensue.files import write_json
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.training.checkpoints import (
    Checkpoints,
    restore_training,
    save_tensors,
    training_state,
    under,
)
from ensue.training.shared_peers import SharedModel
from ensue.training.stored_tables import (
    Owns,
    Stored,
    changes,
    read_divided_table,
    read_table,
)

PIECE = "piece."  # before the name of a parameter: which part of it the file has


@dataclass
class _Base:
    """A checkpoint with all of the growing tables.

    steps: where each of them stood. age: number of checkpoints since.
    """

    files: list[str]
    steps: dict[str, int]
    age: int = 0


class SharedCheckpoints(Checkpoints):
    """The checkpoints of a training whose model is with several workers, who all call each method.

    The folder is one that all workers write to.

    Args:
        full_every: each so many-th checkpoint of a training has all rows of tables that grow, and
            the ones between them what changed since.
    """

    def __init__(self, folder: Path, ranker: SharedModel, *, full_every: int = 1) -> None:
        super().__init__(folder)
        self.ranker, self.workers = ranker, ranker.workers
        self._full_every = full_every
        self._base: _Base | None = None  # of this process: what others wrote is not gone on from

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
        tensors = training_state(model, optimizer, gathered)
        tables = _named_tables(self.ranker)
        base = self._base
        if base is not None and base.age + 1 < self._full_every:
            base.age += 1
            for prefix, table in tables.items():
                tensors = {n: value for n, value in tensors.items() if not n.startswith(prefix)}
                own = changes(table, base.steps[prefix])
                tensors |= {f"{prefix}{key}": value for key, value in own.items()}
            self._write(name, tensors, counters, base.files)
            return
        files = self._write(name, tensors, counters)
        if tables:
            self._base = _Base(files, {prefix: table.step for prefix, table in tables.items()})

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

    def _write(
        self,
        name: str,
        tensors: dict[str, Tensor],
        counters: dict[str, Any],
        base: Sequence[str] = (),
    ) -> list[str]:
        """Write a checkpoint of all workers, and return its files.

        Args:
            base: the files that it goes on from; none where it is whole.
        """
        for own, piece in self.ranker.pieces.items():
            tensors[f"{PIECE}{own}"] = _packed(piece)
        before = json.loads(self._manifest(name).read_text()) if self.exists(name) else {}
        number = before.get("number", 0) + 1
        files = [f"{name}-{number}-{rank}.safetensors" for rank in range(self.workers.size)]
        save_tensors(self.folder / files[self.workers.rank], tensors, {})
        self.workers.barrier()  # all files are there
        if self.workers.rank == 0:
            stored = {"number": number, "files": files, "base": list(base), "counters": counters}
            write_json(self._manifest(name), stored)
            for path in self.folder.glob(f"{name}-[0-9]*.safetensors"):
                if path.name not in (*files, *base):
                    path.unlink()
        self.workers.barrier()
        return files

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._base = None
        stored = json.loads(self._manifest(name).read_text(encoding="utf-8"))
        tables, rank = _named_tables(self.ranker), self.workers.rank
        with _opened(self.folder, stored) as parts:
            if len(parts) == self.workers.size and self._has_same_pieces(parts[rank].file):
                return _own(parts[rank], tables), stored["counters"]
            tensors = _divided(parts, self.ranker.pieces, tables, self.ranker.owns)
        torch.manual_seed(rank)  # what is drawn in a worker's rows is of the new division
        tensors["generator.cpu"] = torch.get_rng_state()
        return tensors, stored["counters"]

    def _has_same_pieces(self, file: Any) -> bool:
        """Return whether a file has the parts of the parameters that this worker has."""
        stored = {n.removeprefix(PIECE) for n in file.keys() if n.startswith(PIECE)}  # noqa: SIM118
        if stored != set(self.ranker.pieces):
            return False
        return all(
            torch.equal(file.get_tensor(f"{PIECE}{name}"), _packed(piece))
            for name, piece in self.ranker.pieces.items()
        )

    def _manifest(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def load_whole_(model: nn.Module, folder: Path, name: str) -> None:
    """Give a model, whole and on one process, the weights that workers have stored."""
    stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with _opened(folder, stored) as parts:
        tables = _named_tables(model, "model.model.")
        tensors = _divided(parts, {}, tables, lambda ids: torch.ones_like(ids, dtype=torch.bool))
    # What is known of rare values is no part of what the workers store.
    state = model.state_dict()
    for own, value in under(tensors, "model.model.").items():
        # A table of items is a module with a weight there.
        state[own if own in state else own.removesuffix(".weight")] = value
    model.load_state_dict(state)


@contextmanager
def _opened(folder: Path, manifest: dict[str, Any]) -> Iterator[list[Stored]]:
    """Yield the files of each worker, to be read tensor by tensor."""
    names = manifest["files"]
    with ExitStack() as stack:

        def open_(name: str) -> Any:
            path = folder / name
            if not path.is_file():
                raise RunError(
                    f"a checkpoint of {len(names)} workers needs the files of each; {path} does "
                    "not exist. Its folder must be one that all workers write to."
                )
            try:
                return stack.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise RunError(
                    f"{path} must be a whole safetensors file; reading it failed with {error}. "
                    "Copy it again, or train again."
                ) from None

        bases = [open_(name) for name in manifest["base"]] or [None] * len(names)
        yield [Stored(open_(name), base) for name, base in zip(names, bases, strict=True)]


def _own(part: Stored, tables: Mapping[str, DynamicEmbedding]) -> dict[str, Tensor]:
    """Return what a worker has stored itself."""
    names = [name for name in part.file.keys() if not name.startswith(tuple(tables))]  # noqa: SIM118
    tensors = {name: part.file.get_tensor(name) for name in names}
    for prefix, table in tables.items():
        tensors |= _state(read_table(part, prefix, table), prefix)
    return tensors


def _state(table: DynamicEmbedding, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in table.state_dict().items()}


def _divided(
    parts: list[Stored],
    pieces: Mapping[str, Piece],
    tables: Mapping[str, DynamicEmbedding],
    owns: Owns,
) -> dict[str, Tensor]:
    """Return what a worker has of what others stored, in another number or another division.

    Args:
        parts: of each worker that stored. pieces: of this one. tables: those that grow, by what
            their tensors' names begin with. owns: of which ids in them it has the rows.
    """
    files = [part.file for part in parts]
    names = list(files[0].keys())
    divided = [name.removeprefix(PIECE) for name in names if name.startswith(PIECE)]
    of_tensor = {
        name: parameter
        for parameter in {*divided, *pieces}
        for name in names
        if _belongs(name, parameter, files[0])
    }
    tensors: dict[str, Tensor] = {}
    for name in names:
        if name.startswith((PIECE, *tables)):
            continue
        parameter = of_tensor.get(name, "")
        if parameter in divided:
            found = [_piece(file.get_tensor(f"{PIECE}{parameter}")) for file in files]
            whole = joined([file.get_tensor(name) for file in files], found)
        else:
            whole = files[0].get_tensor(name)
        tensors[name] = local_part(whole, pieces.get(parameter))
    for prefix, table in tables.items():
        tensors |= _state(read_divided_table(parts, prefix, table, owns), prefix)
    return tensors


def _belongs(name: str, parameter: str, file: Any) -> bool:
    """Return whether a tensor is a parameter, or has a number for each of its numbers."""
    own = name.partition(".")[2]
    if own != f"model.{parameter}" and not own.startswith(f"model.{parameter}."):
        return False
    # The optimizer's count of steps is none of these.
    whole: bool = (
        file.get_slice(name).get_shape() == file.get_slice(f"model.model.{parameter}").get_shape()
    )
    return whole


def _packed(piece: Piece) -> Tensor:
    """Return the axis and the places of a piece in one tensor."""
    return torch.cat([torch.tensor([piece.axis]), piece.places])


def _piece(stored: Tensor) -> Piece:
    """Return the piece from its axis and its places in one tensor."""
    return Piece(int(stored[0]), stored[1:])


def _named_tables(model: nn.Module, prefix: str = "model.") -> dict[str, DynamicEmbedding]:
    """Return the growing tables by what the names of their tensors begin with."""
    modules = model.named_modules()
    return {f"{prefix}{n}.": m for n, m in modules if isinstance(m, DynamicEmbedding)}
