"""Exact search beside the rate of matrix products, and approximate search beside exact search.

    OMP_NUM_THREADS=1 python -m benchmarks.indexes [--items N] [--dim D] [--approximate]

Bar: 1,000 queries over a million items of width 64, k=100, at 70% of the rate of products of square
matrices (2,048) measured beside it, on one thread. Rates are per second of processor time, so that
other work on the machine counts for little; seconds are of the wall.

With --approximate: what HNSW and IVF find of the 100 best items, and how long a query takes. The
vectors lie around one center for every hundred items and their lengths vary, as those of trained
models do: vectors without any structure have no good approximate index.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._report import to_table, write_report
from ensue.data.histories import HistoryBatch
from ensue.indexes.faiss_index import import_faiss
from ensue.indexes.table import KINDS
from ensue.runs.index_benchmark import recall, time_searches

REPEATS = 3
SQUARE = 2048
TOPK_ROWS = 64  # queries scored at a time for torch.topk: 256 MB of scores


class Items:
    """A model of given item vectors [I + 1, D]."""

    def __init__(self, table: Tensor) -> None:
        self.num_items, self._table = len(table) - 1, table

    def item_table(self) -> tuple[Tensor, None]:
        return self._table, None

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        return self._table[batch.items], batch.offsets.diff()


def main() -> None:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--approximate", action="store_true")
    options = parser.parse_args()
    config = {**vars(options), "threads": torch.get_num_threads()}
    items, queries = make_vectors(options.items, options.dim, options.queries)
    rows = (approximate if options.approximate else exact)(items, queries, options.k)
    print(to_table(rows))
    name = "indexes_approximate" if options.approximate else "indexes_exact"
    print(write_report(f"{name}_{options.items}", config, rows))


def make_vectors(
    num_items: int, dim: int, num_queries: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return item vectors [I + 1, D] around centers, and queries [B, D] around the same ones."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((max(1, num_items // 100), dim), dtype=np.float32)

    def around(number: int) -> NDArray[np.float32]:
        noise = rng.standard_normal((number, dim), dtype=np.float32)
        return centers[rng.integers(0, len(centers), number)] + noise

    lengths = np.exp(0.3 * rng.standard_normal((num_items + 1, 1), dtype=np.float32))
    return around(num_items + 1) * lengths, around(num_queries)


def exact(items: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> list[dict[str, Any]]:
    """Return a row for each way to find the exact answers, and one for products alone."""
    faiss = import_faiss()
    index = KINDS["exact"].build(Items(torch.from_numpy(items)), KINDS["exact"].config())  # type: ignore[arg-type]
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(items[1:])
    table, asked = torch.from_numpy(items[1:]), torch.from_numpy(queries)

    def blocked_topk() -> None:
        for first in range(0, len(asked), TOPK_ROWS):
            torch.topk(asked[first : first + TOPK_ROWS] @ table.T, k)

    square = np.random.default_rng(0).standard_normal((SQUARE, SQUARE), dtype=np.float32)
    out = np.empty_like(square)
    ways: dict[str, tuple[Callable[[], Any], float]] = {
        f"product of {SQUARE:,} x {SQUARE:,}": (
            lambda: np.matmul(square, square, out=out),
            2.0 * SQUARE**3,
        )
    }
    operations = 2.0 * len(table) * queries.size
    ways["ensue, exact"] = lambda: index.search(queries, k), operations
    ways["faiss, IndexFlatIP"] = lambda: flat.search(queries, k), operations
    ways["torch.mm and torch.topk"] = blocked_topk, operations
    index.search(queries[:2], k)  # compiles
    best: dict[str, list[float]] = {name: [np.inf, np.inf] for name in ways}
    for _ in range(REPEATS):  # in turn, so that what else the machine does meets all of them
        for name, (run, _) in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            taken = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = [min(pair) for pair in zip(best[name], taken, strict=True)]
    rates = {name: amount / best[name][1] / 1e9 for name, (_, amount) in ways.items()}
    product = next(iter(rates.values()))
    return [
        {
            "what": name,
            "seconds": best[name][0],
            "processor seconds": best[name][1],
            "GFLOP/s": rates[name],
            "share of the product's rate": rates[name] / product,
            "bar": 0.7 if name == "ensue, exact" else "",
        }
        for name in ways
    ]


def approximate(
    items: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> list[dict[str, Any]]:
    """Return a row for each kind and each setting of its searches."""
    model: Any = Items(torch.from_numpy(items))
    rows: list[dict[str, Any]] = []
    exact_index = KINDS["exact"].build(model, KINDS["exact"].config())
    expected, _ = exact_index.search(queries, k)
    for name, kind in KINDS.items():
        started = time.perf_counter()
        index = kind.build(model, kind.config())
        built = time.perf_counter() - started
        settings: list[tuple[str, int] | None] = [
            (n, value) for n, values in kind.sweep.items() for value in values
        ]
        for setting in settings or [None]:
            if setting is not None:
                setattr(index, *setting)
            ids, _ = index.search(queries, k)
            times = time_searches(index, queries, k)
            rows.append(
                {
                    "kind": name,
                    "setting": "" if setting is None else "{}={}".format(*setting),
                    f"recall@{k}": recall(ids, expected),
                    "ms, 1 at a time": times["1"]["median"],
                    "p95": times["1"]["p95"],
                    "ms, 256 at a time": times["256"]["median"],
                    "build, s": built,
                }
            )
    return rows


if __name__ == "__main__":
    main()
