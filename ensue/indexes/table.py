"""The kinds of indexes, by name: a closed list, so that a stored index can build nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensue.config import Config
from ensue.errors import UsageError, did_you_mean
from ensue.indexes.base import Index
from ensue.indexes.exact import ExactConfig, ExactIndex
from ensue.indexes.hnsw import HNSWConfig, HNSWIndex
from ensue.indexes.ivf import IVFConfig, IVFIndex
from ensue.indexes.paths import PathIndex, PathsConfig
from ensue.indexes.vectors import item_vectors
from ensue.models.base import Model


@dataclass(frozen=True)
class Kind:
    """A kind of index.

    build: returns a new index of a model.
    load: returns the index stored in a folder; None builds it from the model: nothing is stored.
    save: writes an index to a folder.
    sweep: the setting of a search that trades time for quality, if there is one, and values of it
        to try. It is a field of the config, and an attribute of the index that may be changed.
    """

    config: type[Config]
    build: Callable[[Model, Any], Index]
    load: Callable[[Path, Model, Any], Index] | None = None
    save: Callable[[Any, Path], None] | None = None
    sweep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def _exact(model: Model, config: ExactConfig) -> ExactIndex:
    return ExactIndex(item_vectors(model), config)


KINDS: dict[str, Kind] = {
    "exact": Kind(ExactConfig, _exact),
    "hnsw": Kind(
        HNSWConfig,
        HNSWIndex.build,
        HNSWIndex.load,
        HNSWIndex.save,
        sweep={"ef_search": (16, 32, 64, 128, 256, 512)},
    ),
    "ivf": Kind(
        IVFConfig,
        IVFIndex.build,
        IVFIndex.load,
        IVFIndex.save,
        sweep={"nprobe": (1, 4, 16, 64, 256)},
    ),
    # All of it is in the weights of the model.
    "paths": Kind(PathsConfig, PathIndex.build, sweep={"beam": (5, 10, 20, 50, 100, 200)}),
}


def get_kind(name: str) -> Kind:
    """Return the kind of index called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in KINDS:
        raise UsageError(f"there is no kind of index {name!r}.{did_you_mean(name, KINDS)}")
    return KINDS[name]
