"""A learned path index over a million items beside brute force, HNSW and IVF.

    python -m benchmarks.deep_retrieval_large [--items 1000000] [--minutes 10] [--small]

Items are vectors around centers around centers, of different sizes; the items of a user are those
with the largest products with a query, which is an item's vector and noise. The networks of the
layers are trained on such queries and items, with the paths assigned anew after every pass, as in
the training of a model; the encoder is left out, so that the time goes to what is measured here.
Then overlap@100 with the exact answer, and the time of a query searched alone on one thread: of the
exact index, of the paths over a sweep of the beam, and of HNSW and IVF (FAISS) over theirs.
"""

from __future__ import annotations

import argparse
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._report import to_table, write_report
from ensue.indexes.exact import ExactIndex
from ensue.indexes.faiss_index import import_faiss
from ensue.indexes.hnsw import HNSWConfig, HNSWIndex
from ensue.indexes.ivf import IVFConfig, IVFIndex
from ensue.indexes.path_tree import PathNetwork, PathTree
from ensue.indexes.paths import PathIndex
from ensue.indexes.vectors import ItemVectors
from ensue.losses.path_likelihood import path_loss
from ensue.nn.path_layers import PathLayers, unpack_codes
from ensue.runs.index_benchmark import recall, time_searches
from ensue.training.path_assignment import Candidates, Penalty, assign_paths, find_alpha, path_sizes
from ensue.training.path_scores import PathScores
from ensue.training.path_start import cluster_candidates

DIM, DEPTH, NUM_PATHS, TOP = 64, 3, 3, 100
BATCH, NOTED, NUM_CANDIDATES = 1024, 128, 50
NOISE = 0.5
ALPHA_PASSES = (1, 4)  # after which alpha is searched again: as long as a pass of the networks
SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "paths": ("beam", (5, 10, 20, 50, 100, 200)),
    "hnsw": ("ef_search", (32, 64, 128, 256, 512, 1024)),
    "ivf": ("nprobe", (4, 16, 32, 64, 128, 256)),
}


def main() -> int:
    """Train, build, measure, print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--path-size", type=int, default=2000)
    parser.add_argument("--small", action="store_true", help="a check of the program")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.items, arguments.minutes = 5_000, 0.1
    torch.manual_seed(0)
    # A few ten items a path: with a hundred choices a layer a beam of paths held too few items.
    width = 32 if arguments.items >= 100_000 else 20
    vectors = make_items(arguments.items)
    picks = torch.randint(len(vectors), (50 if arguments.small else 1000,))
    queries = make_queries(vectors[picks]).numpy()
    started = time.perf_counter()
    paths = train_paths(vectors, width, arguments.path_size, 60 * arguments.minutes)
    indexes: dict[str, Any] = {"paths": paths}
    seconds = {"exact": 0.0, "paths": time.perf_counter() - started}
    torch.set_num_threads(1)
    import_faiss().omp_set_num_threads(1)
    items = ItemVectors(vectors.numpy(), has_bias=False)
    table = torch.cat([torch.zeros(1, DIM), vectors])
    stand_in = SimpleNamespace(num_items=len(vectors))
    stand_in.item_table, stand_in.queries = lambda: (table, None), lambda batch: batch
    for name, build in (
        ("hnsw", lambda: HNSWIndex.build(stand_in, HNSWConfig())),
        ("ivf", lambda: IVFIndex.build(stand_in, IVFConfig())),
    ):
        started = time.perf_counter()
        indexes[name] = build()
        seconds[name] = time.perf_counter() - started
    rows = measure(ExactIndex(items), indexes, queries, seconds)
    print(to_table(rows))
    if not arguments.small:
        print(write_report("deep_retrieval_large", {**vars(arguments), "width": width}, rows))
    return 0


def make_items(count: int) -> Tensor:
    """Return unit vectors [I, E] around centers around centers."""
    num_inner = max(count // 100, 10)
    outer = torch.randn(max(num_inner // 100, 5), DIM)
    inner = outer[torch.randint(len(outer), (num_inner,))] + 0.8 * torch.randn(num_inner, DIM)
    shares = torch.arange(1, num_inner + 1).float().rsqrt()  # few large, many small
    owners = torch.multinomial(shares, count, replacement=True)
    return torch.nn.functional.normalize(inner[owners] + 0.6 * torch.randn(count, DIM), dim=1)


def make_queries(vectors: Tensor) -> Tensor:
    """Return queries near some vectors [n, E]."""
    noise = torch.nn.functional.normalize(torch.randn_like(vectors), dim=1)
    return torch.nn.functional.normalize(vectors + NOISE * noise, dim=1)


def train_paths(vectors: Tensor, width: int, path_size: int, seconds: float) -> PathIndex:
    """Return a path index: networks trained in turn with the assignment, for about so long."""
    num_items, deadline = len(vectors), time.perf_counter() + seconds
    layers = PathLayers(DIM, depth=DEPTH, width=width, node_dim=DIM, hidden_dim=256)
    start = cluster_candidates(
        vectors,
        depth=DEPTH,
        width=width,
        num_candidates=NUM_CANDIDATES,
        generator=torch.Generator().manual_seed(0),
    )
    rng = np.random.default_rng(0)
    paths = np.sort(rng.integers(0, width**DEPTH - 2, (num_items, NUM_PATHS)), axis=1)
    paths = paths + np.arange(NUM_PATHS)
    alpha = find_alpha(start, paths, path_size=path_size, power=4, seed=0)
    paths = assign(start, paths, alpha)
    optimizer = torch.optim.Adam(layers.parameters(), lr=2e-3, fused=True)
    scores = PathScores(num_items, size=NUM_CANDIDATES, decay=0.999)
    number = 0
    while number == 0 or time.perf_counter() < deadline:
        codes = torch.from_numpy(paths)
        losses = []
        for rows in torch.split(torch.randperm(num_items), BATCH):
            queries = make_queries(vectors[rows])
            choices = unpack_codes(codes[rows], depth=DEPTH, width=width)
            loss = path_loss(layers, queries, choices) / len(rows)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            with torch.no_grad():
                found, log_p = layers.search(queries[:NOTED], NUM_CANDIDATES)
            scores.add(rows[:NOTED] + 1, found, log_p.exp())
        number += 1
        print(f"pass {number}: loss {np.mean(losses):.4f}", file=sys.stderr, flush=True)
        if time.perf_counter() < deadline:  # the last pass trains the final paths
            is_noted = scores.scores[1:].any(axis=1, keepdims=True)
            candidates = Candidates(
                np.where(is_noted, scores.codes[1:], start.codes),
                np.where(is_noted, scores.scores[1:], start.scores),
                start.counts,
            )
            if number in ALPHA_PASSES:
                alpha = find_alpha(candidates, paths, path_size=path_size, power=4, seed=0)
            paths = assign(candidates, paths, alpha)
    tree = PathTree.from_paths(paths, depth=DEPTH, width=width)
    print(describe(paths), file=sys.stderr, flush=True)
    return PathIndex(PathNetwork.from_layers(layers), tree, vectors.numpy(), beam=50)


def assign(candidates: Candidates, paths: Any, alpha: float) -> Any:
    """Return new paths."""
    rng = np.random.default_rng(0)
    return assign_paths(candidates, paths, Penalty(alpha), sweeps=3, rng=rng)


def describe(paths: Any) -> str:
    """Return a sentence on the sizes of the paths."""
    sizes = path_sizes(paths)
    return f"{len(sizes):,} paths hold {sizes.mean():.1f} items, {sizes.max()} at most"


def measure(
    exact: Any, indexes: dict[str, Any], queries: Any, seconds: dict[str, float]
) -> list[dict[str, Any]]:
    """Return overlap and time of the exact index, and of each other one over its sweep."""
    truth, _ = exact.search(queries, TOP)
    base = time_searches(exact, queries, TOP)["1"]["median"]
    rows: list[dict[str, Any]] = []

    def add(name: str, setting: str, overlap: float, times: dict[str, float]) -> None:
        figures = {"index": name, "setting": setting, f"overlap@{TOP}": overlap}
        figures |= {"ms": times["median"], "ms, p95": times["p95"]}
        rows.append({**figures, "times faster": base / times["median"], "build, s": seconds[name]})

    add("exact", "", 1.0, time_searches(exact, queries, TOP)["1"])
    for name, index in indexes.items():
        knob, values = SWEEPS[name]
        for value in values:
            setattr(index, knob, value)
            found, _ = index.search(queries, TOP)
            add(
                name,
                f"{knob}={value}",
                recall(found, truth),
                time_searches(index, queries, TOP)["1"],
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
