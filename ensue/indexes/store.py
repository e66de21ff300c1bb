"""An index in a folder, written whole, and bound to the weights that it was built of.

```
index.json      kind, settings, hash of the weights, hash and size of what else the folder holds
index.faiss     of kinds that FAISS makes
```
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.config import Config, make_config
from ensue.errors import RunError, UsageError
from ensue.files import atomic_directory, write_json
from ensue.indexes.base import Index
from ensue.indexes.table import get_kind
from ensue.models.base import Model

FORMAT = 1
MARKER = "index.json"


@dataclass(frozen=True)
class StoredIndex:
    """What index.json says of an index.

    weights: hash of the model's file. seconds: of building. files: name -> size and hash.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    weights: str
    num_items: int
    seconds: float
    files: dict[str, dict[str, Any]]

    @property
    def num_bytes(self) -> int:
        """Bytes of all that is stored beside index.json."""
        return sum(file["bytes"] for file in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what there is to say of the index, ready for JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "config": self.config,
            "num_items": self.num_items,
            "seconds": self.seconds,
            "bytes": self.num_bytes,
        }


def build_index(
    path: Path,
    kind: str,
    model: Model,
    weights: str,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> tuple[StoredIndex, Index]:
    """Build an index of a model in a new folder; return what is stored, and the index.

    Args:
        weights: hash of the model's file.
        overwrite: replace an index that is there.

    Raises:
        UsageError: there is no such kind, the model suits none, or the folder may not be written.
        ConfigError: a setting does not exist or does not fit.
        ExtraError: the kind needs a package that is not installed.
    """
    chosen = get_kind(kind)
    config = make_config(chosen.config, settings)
    with atomic_directory(path, marker=MARKER, overwrite=overwrite) as temporary:
        started = time.perf_counter()
        index = chosen.build(model, config)
        seconds = time.perf_counter() - started
        if chosen.save is not None:
            chosen.save(index, temporary)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": hash_file(file)}
            for file in sorted(temporary.iterdir())
        }
        info = {
            "format": FORMAT,
            "kind": kind,
            "config": config.model_dump(),
            "weights": weights,
            "num_items": index.num_items,
            "seconds": seconds,
            "files": files,
        }
        write_json(temporary / MARKER, info)
    return read_stored(path), index


def read_stored(path: Path) -> StoredIndex:
    """Return what a folder says of the index in it.

    Raises:
        RunError: it holds no index, or index.json is damaged.
    """
    file = path / MARKER
    if not file.is_file():
        raise RunError(
            f"an index is a folder with an index.json; {path} has none. Make one with ensue index."
        )
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        stored = info.pop("format")
        if stored == FORMAT:
            return StoredIndex(path, **info)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} must be what ensue index wrote; it is not: {error}") from None
    raise RunError(
        f"{file} has format {stored!r}, this version reads {FORMAT}. Build the index again."
    )


def load_index(
    path: Path, model: Model, weights: str, settings: Mapping[str, Any] | None = None
) -> Index:
    """Return the index in a folder.

    Args:
        weights: hash of the model's file, which must be that of the index.
        settings: of searches with it, in place of those it was built with.

    Raises:
        RunError: it is no index of these weights, or damaged.
        UsageError: a setting is none of a search.
    """
    stored = read_stored(path)
    if stored.weights != weights:
        raise RunError(
            f"an index must be of the weights that it is used with; {path} is of others "
            f"({stored.weights[:12]}, the run's are {weights[:12]}). "
            "Build it again with ensue index --overwrite."
        )
    for name, facts in stored.files.items():
        file = path / name
        if not file.is_file() or hash_file(file) != facts["sha256"]:
            raise RunError(
                f"{file} must be the file that ensue index wrote; it is missing or changed. "
                "Build the index again with ensue index --overwrite."
            )
    kind = get_kind(stored.kind)
    for name in settings or {}:
        if name not in kind.sweep:
            known = ", ".join(kind.sweep) or "none"
            raise UsageError(
                f"a setting of searches with {stored.kind} must be one of: {known}; got {name!r}."
            )
    config: Config = make_config(kind.config, {**stored.config, **(settings or {})})
    if kind.load is None:
        return kind.build(model, config)
    return kind.load(path, model, config)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
