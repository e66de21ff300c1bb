"""IVF: items in lists around centers, of which a search reads those of the nearest centers.

Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011, with the
vectors as they are and no quantization, over inner products (FAISS); centers have unit length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from ensue.config import Config
from ensue.errors import ConfigError
from ensue.indexes.faiss_index import (
    FaissIndex,
    import_faiss,
    read_index,
    vectors_for_faiss,
)
from ensue.indexes.vectors import check_knob

ITEMS_OF_A_LIST = 39  # the fewest for which FAISS calls a center well founded


class IVFConfig(Config):
    """Settings of an IVF index.

    num_lists: None is 4 times the root of the number of items, with at least 39 items in a list.
    nprobe: lists read in a search; more find more, and take longer.
    """

    num_lists: int | None = Field(default=None, ge=1)
    nprobe: int = Field(default=16, ge=1)


class IVFIndex(FaissIndex):
    """nprobe: as in the config; may be changed at any time."""

    def __init__(self, index: Any, *, has_bias: bool, nprobe: int) -> None:
        super().__init__(index, has_bias=has_bias)
        self.nprobe = nprobe

    @classmethod
    def build(cls, model: object, config: IVFConfig) -> IVFIndex:
        """Return a new index of the items of a model.

        Raises:
            ConfigError: there are more lists than items.
        """
        faiss, rows, has_bias = vectors_for_faiss(model)
        num_items, dim = rows.shape
        num_lists = config.num_lists
        if num_lists is None:
            num_lists = max(1, min(int(4 * num_items**0.5), num_items // ITEMS_OF_A_LIST))
        if num_lists > num_items:
            raise ConfigError(
                f"num_lists must be at most the number of items, {num_items}; got {num_lists}."
            )
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, metric)
        index.cp.spherical = True
        index.cp.min_points_per_centroid = 1  # chosen by the caller: no warning
        index.train(rows)
        index.add(rows)
        return cls(index, has_bias=has_bias, nprobe=config.nprobe)

    @classmethod
    def load(cls, folder: Path, model: object, config: IVFConfig) -> IVFIndex:
        """Return the index stored in a folder."""
        index, has_bias = read_index(folder, model)
        return cls(index, has_bias=has_bias, nprobe=config.nprobe)

    def _parameters(self) -> Any:
        return import_faiss().SearchParametersIVF(nprobe=check_knob("nprobe", self.nprobe))
