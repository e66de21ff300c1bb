"""HNSW: a graph of neighbors with long links above short ones, searched greedily.

Malkov and Yashunin, TPAMI 2020, arXiv:1603.09320, over inner products (FAISS). With several threads
the order in which items enter the graph varies, and with it the graph a little.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from ensue.config import Config
from ensue.indexes.faiss_index import (
    FaissIndex,
    import_faiss,
    read_index,
    vectors_for_faiss,
)
from ensue.indexes.vectors import check_knob


class HNSWConfig(Config):
    """Settings of an HNSW index.

    num_links: of each item, in each layer but the lowest, which has twice as many (the paper's M).
    ef_construction: candidates looked at for the links of a new item.
    ef_search: candidates looked at in a search; more find more, and take longer.
    """

    num_links: int = Field(default=32, ge=2, le=512)
    ef_construction: int = Field(default=200, ge=1)
    ef_search: int = Field(default=128, ge=1)


class HNSWIndex(FaissIndex):
    """ef_search: as in the config; may be changed at any time. At least k are looked at."""

    def __init__(self, index: Any, *, has_bias: bool, ef_search: int) -> None:
        super().__init__(index, has_bias=has_bias)
        self.ef_search = ef_search

    @classmethod
    def build(cls, model: object, config: HNSWConfig) -> HNSWIndex:
        """Return a new index of the items of a model."""
        faiss, rows, has_bias = vectors_for_faiss(model)
        index = faiss.IndexHNSWFlat(rows.shape[1], config.num_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.ef_construction
        index.add(rows)
        return cls(index, has_bias=has_bias, ef_search=config.ef_search)

    @classmethod
    def load(cls, folder: Path, model: object, config: HNSWConfig) -> HNSWIndex:
        """Return the index stored in a folder."""
        index, has_bias = read_index(folder, model)
        return cls(index, has_bias=has_bias, ef_search=config.ef_search)

    def _parameters(self) -> Any:
        return import_faiss().SearchParametersHNSW(efSearch=check_knob("ef_search", self.ef_search))
