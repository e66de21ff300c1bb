"""Deep Retrieval: quality beside brute force, path sizes by alpha, and the speed of an assignment.

    python -m benchmarks.deep_retrieval [--only ml-1m alpha m-step] [--epochs 8] [--small]

ml-1m: a tenth of the users is put aside; the first half of each one's history is read, the second
half is the truth. F1@10 of a beam relative to brute force with the same softmax, and the share of
the catalogue that is scored; items of the history read are removed from answers and truth, or, in
the rows "with history", from neither. Bar: .98 at 20% of the catalogue or less.
alpha: the largest path of one assignment after that training, by alpha, as in the paper's Table 5.
m-step: three sweeps over a million items with 50 candidates each, one thread. Bar: 60 s.
Needs the real data set in ../shared/data for the first two. --small is a check of the program.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import ensue
from benchmarks._report import to_table, write_report
from ensue.data.histories import Histories, HistoryBatch
from ensue.indexes.exact import ExactIndex
from ensue.indexes.paths import PathIndex, PathsConfig
from ensue.indexes.vectors import item_vectors, model_queries
from ensue.models.retrieval.deep_retrieval import DeepRetrieval
from ensue.runs.run import Run
from ensue.training.checkpoints import load_tensors
from ensue.training.path_assignment import Candidates, Penalty, assign_paths, path_sizes
from tests.helpers import make_dataset

ML_1M = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-1m" / "sequences.txt.gz"
CASES = ["ml-1m", "alpha", "m-step"]
SETTINGS: dict[str, Any] = {
    "width": 50,
    "depth": 2,
    "num_paths": 3,
    "path_size": 64,
    "max_len": 200,
    "learning_rate": 0.002,
    "patience": None,
}
BEAMS = (2, 5, 10, 20, 50)
TOP = 10
METHODS = ("safe", "published")
ALPHAS = (3e-9, 3e-8, 3e-7, 3e-6, 3e-5, 3e-4, 3e-3, 3e-2)


def main() -> int:
    """Run the cases, print their tables and write a report of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.small else torch.get_num_threads())
    if "m-step" in arguments.only:
        num_items = 100_000 if arguments.small else 1_000_000
        tell("m-step", arguments, [time_assignment(num_items, method) for method in METHODS])
    if not {"ml-1m", "alpha"} & set(arguments.only):
        return 0
    if not ML_1M.is_file():
        print(f"skipped: {ML_1M} is not there", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        run, history, truth = train_on_part(Path(folder), arguments.epochs, arguments.small)
        if "ml-1m" in arguments.only:
            tell("ml-1m", arguments, measure_quality(run, history, truth))
        if "alpha" in arguments.only:
            tell("alpha", arguments, sizes_by_alpha(run))
    return 0


def tell(case: str, arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Print a table, and write its report unless it is of a small run."""
    print(to_table(rows), flush=True)
    if not arguments.small:
        config = {**SETTINGS, "epochs": arguments.epochs, "threads": torch.get_num_threads()}
        print(write_report(f"deep_retrieval_{case}", config, rows))


def train_on_part(
    folder: Path, epochs: int, is_small: bool
) -> tuple[Run, list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return a run of nine tenths of the users, and halves of the histories of the others."""
    whole = ensue.prepare(ML_1M, folder / "whole", split="none")
    histories: Histories = whole.histories()
    users = np.random.default_rng(0).permutation(np.arange(1, whole.num_users + 1))
    held, trained = np.split(users, [whole.num_users // 10])
    trained = np.sort(trained[:400] if is_small else trained)
    dataset = make_dataset(
        folder / "train",
        [histories[user].tolist() for user in trained],
        split="none",
        num_items=whole.num_items,
        name="ml-1m, nine tenths of the users",
    )
    run = ensue.train("deep_retrieval", dataset, out=folder / "run", epochs=epochs, **SETTINGS)
    whole_lists = [histories[user].astype(np.int64) for user in held]
    history = [items[: len(items) // 2] for items in whole_lists]
    return run, history, [items[len(items) // 2 :] for items in whole_lists]


def measure_quality(
    run: Run, history: list[NDArray[np.int64]], truth: list[NDArray[np.int64]]
) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of brute force and of each beam."""
    model = run.model
    assert isinstance(model, DeepRetrieval)
    queries = model_queries(model, HistoryBatch.from_lists(history))
    index = PathIndex.build(model, PathsConfig())
    width = TOP + max(len(items) for items in history)
    exact, _ = ExactIndex(item_vectors(model)).search(queries, width)
    answers = {"brute force": (exact, 1.0)}
    for beam in BEAMS:
        index.beam = beam
        found, _, counts = index.search_counted(queries, width)
        answers[f"beam {beam}"] = found, float(counts.mean() / index.num_items)
    rows = []
    for removes in (True, False):
        base = 0.0
        for name, (found, share) in answers.items():
            means = mean_metrics(found, history, truth, removes)
            base = base or means["F1@10"]
            case = name if removes else f"{name}, with history"
            shares = {"of brute force": means["F1@10"] / base, "share scored": share}
            rows.append({"answer": case, **means, **shares})
    return rows


def mean_metrics(
    found: NDArray[np.int64],
    history: list[NDArray[np.int64]],
    truth: list[NDArray[np.int64]],
    removes: bool,
) -> dict[str, float]:
    """Return the means over users of precision, recall and F1 of their first ten items."""
    figures = []
    for row, read, wanted in zip(found, history, truth, strict=True):
        hidden = read if removes else read[:0]
        items = row[(row > 0) & ~np.isin(row, hidden)][:TOP]
        targets = np.setdiff1d(wanted, hidden)
        if len(targets) == 0:
            continue
        hits = np.isin(items, targets).sum()
        precision, recall = hits / TOP, hits / len(targets)
        figures.append((precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)))
    names = (f"precision@{TOP}", f"recall@{TOP}", f"F1@{TOP}")
    return dict(zip(names, np.mean(figures, axis=0).tolist(), strict=True))


def sizes_by_alpha(run: Run) -> list[dict[str, Any]]:
    """Return path sizes of assignments by what the training has noted, for each alpha."""
    noted, _ = load_tensors(run.path / "checkpoints" / "last.safetensors")
    model, histories = run.model, run.recommender.histories
    assert isinstance(model, DeepRetrieval)
    candidates = Candidates(
        noted["objective.codes"].numpy()[1:],
        noted["objective.scores"].numpy()[1:],
        histories.item_counts(model.num_items)[1:].astype(np.float64),
    )
    rows = []
    for alpha in ALPHAS:
        paths = assign_paths(
            candidates,
            model.paths[1:].numpy(),
            Penalty(alpha),
            sweeps=4,
            rng=np.random.default_rng(0),
        )
        sizes = path_sizes(paths)
        figures = {"largest path": int(sizes.max()), "paths with items": len(sizes)}
        rows.append({"alpha": f"{alpha:.0e}", **figures, "mean": float(sizes.mean())})
    return rows


def time_assignment(num_items: int, method: Any) -> dict[str, Any]:
    """Return the seconds of three sweeps; the items of a cluster share their likely paths."""
    rng = np.random.default_rng(0)
    width, depth, num_candidates = 100, 3, 50
    centers = rng.integers(0, width**depth, (num_items // 200, 2 * num_candidates))
    owners = rng.integers(0, len(centers), num_items)
    order = rng.random((num_items, 2 * num_candidates), dtype=np.float32)
    picks = np.argsort(order, axis=1)[:, :num_candidates]
    codes = np.sort(np.take_along_axis(centers[owners], picks, axis=1), axis=1)
    codes[:, 1:][np.diff(codes, axis=1) == 0] = -1  # must be distinct
    scores = rng.random(codes.shape, dtype=np.float32) ** 4
    counts = rng.integers(1, 50, num_items).astype(np.float64)
    candidates = Candidates(codes, scores, counts)
    paths = np.sort(rng.integers(0, width**depth - 2, (num_items, 3)), axis=1) + np.arange(3)
    few = Candidates(codes[:100], scores[:100], counts[:100])
    assign_paths(few, paths[:100], Penalty(1e-5), sweeps=1, rng=rng, method=method)  # compiles
    started, cpu = time.perf_counter(), time.process_time()
    new = assign_paths(candidates, paths, Penalty(1e-5), sweeps=3, rng=rng, method=method)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    figures = {"s": seconds, "s of the processor": cpu, "largest path": int(path_sizes(new).max())}
    return {"method": method, "items": num_items, "sweeps": 3, **figures, "bar": "60 s"}


if __name__ == "__main__":
    sys.exit(main())
