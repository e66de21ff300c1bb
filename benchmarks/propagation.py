"""Forward and backward of the AL-GCN block beside PyTorch Geometric's TAGConv(K=2): same numbers.

    python -m benchmarks.propagation --reference PYTHON [--dim 64] [--threads 2] [--rounds 3]

PYTHON is that of an environment with torch and PyTorch Geometric (`pip install torch_geometric`);
without it the figures of Ensue stand alone. The graph is that of all interactions of Gowalla
(../shared/data/gowalla; 29,858 users, 40,981 items, 1,027,370 edges), or a random one of that size.
TAGConv gets both directions of each edge, normalized beforehand, once as an edge list and once as a
sparse tensor; Ensue has one T and b for both sides, so that outputs and gradients are comparable.
A step is forward and backward, down to the inputs. Both run in processes of their own, in turns;
figures are medians of all steps, memory is the peak above what imports take.
"propagation" is three layers of LightGCN, both sides; its floor are the bytes of one row read for
each edge and direction at the rate at which this machine copies memory.
Bar: as fast as TAGConv.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import to_table, write_report

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parents[1] / "shared/data/gowalla"
SIZES = (29_858, 40_981)
NUM_EDGES = 1_027_370


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, help="Python of an environment with PyG")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--edges", type=int, help="of a random graph, in place of Gowalla")
    options = parser.parse_args()
    answers: dict[str, list[dict[str, Any]]] = {}
    with TemporaryDirectory() as temporary:
        problem = Path(temporary) / "problem.npz"
        np.savez(problem, **make_problem(options))
        for number in range(options.rounds):
            for name in ("ensue", *(["pyg"] if options.reference else [])):
                python = options.reference if name == "pyg" else Path(sys.executable)
                out = Path(temporary) / f"{name}-{number}.npz"
                run(python, name, problem, out, options.threads)
                with np.load(out) as stored:
                    answers.setdefault(name, []).append(dict(stored))
    rows = table(answers)
    print(to_table(rows))
    config = {name: getattr(options, name) for name in ("dim", "threads", "rounds", "steps")}
    print(write_report("propagation", config | {"graph": describe(options)}, rows))
    return 0


def describe(options: argparse.Namespace) -> str:
    """Return what the graph is."""
    is_real = options.edges is None and SOURCE.is_dir()
    return "gowalla" if is_real else f"random, {options.edges or NUM_EDGES} edges"


def make_problem(options: argparse.Namespace) -> dict[str, Any]:
    """Return edges, inputs of both sides, weights, and gradients of the outputs."""
    rng = np.random.default_rng(0)
    if describe(options) == "gowalla":
        sources, targets = read_edges()
    else:
        number = options.edges or NUM_EDGES
        keys = rng.choice(SIZES[0] * SIZES[1], number, replace=False)
        sources, targets = np.divmod(keys, SIZES[1])
    num_nodes = sum(SIZES)
    return {
        "sources": sources,
        "targets": targets,
        "sizes": SIZES,
        "x": rng.standard_normal((num_nodes, options.dim), dtype=np.float32),
        "theta": rng.standard_normal((3, options.dim, options.dim), dtype=np.float32) / 8,
        "bias": rng.standard_normal(options.dim, dtype=np.float32),
        "grad": rng.standard_normal((num_nodes, options.dim), dtype=np.float32),
        "steps": options.steps,
        "threads": options.threads,
    }


def read_edges() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the users and items of all interactions, from 0 on."""
    users, items = [], []
    for name in ("train", "valid", "test"):
        with gzip.open(SOURCE / f"{name}.txt.gz", "rt") as lines:
            for line in lines:
                user, *own = map(int, line.split())
                users.append(np.full(len(own), user))
                items.append(np.array(own, dtype=np.int64))
    return np.concatenate(users), np.concatenate(items)


def run(python: Path, name: str, problem: Path, out: Path, threads: int) -> None:
    """Let a program measure itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(FOLDER.parent)}
    program = FOLDER / f"_propagation_{name}.py"
    subprocess.run([python, program, problem, out], check=True, env=environment)


def table(answers: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row for each case: medians over all rounds, and how much faster Ensue is."""
    own = answers["ensue"]
    block = median(own, "block")
    rows = [line("AL-GCN, forward and backward", block, own, "block") | compared(own, own, block)]
    for case in ("edge list", "sparse tensor"):
        theirs = answers.get("pyg", [])
        if theirs and f"{case} seconds" in theirs[0]:
            label = f"TAGConv(K=2), {case}"
            seconds = median(theirs, case)
            rows.append(line(label, seconds, theirs, case) | compared(own, theirs, block, case))
    blank = {"Ensue is faster": "", "largest difference": ""}
    propagation = median(own, "propagation")
    floor = float(np.median([one["floor"] for one in own]))
    for label, seconds in (
        ("LightGCN, 3 layers forward", propagation),
        ("its bytes, at the rate of a copy", floor),
    ):
        rows.append({"case": label, "seconds": seconds, "peak MiB": "", **blank})
    return rows


def line(label: str, seconds: float, answers: list[dict[str, Any]], case: str) -> dict[str, Any]:
    """Return the time and the memory of a case."""
    peak = float(np.median([one[f"{case} bytes"] for one in answers])) / 2**20
    return {"case": label, "seconds": seconds, "peak MiB": round(peak)}


def compared(
    own: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    block: float,
    case: str = "block",
) -> dict[str, Any]:
    """Return how much faster Ensue is, and how far outputs and gradients are apart at most."""
    names = ("output", "gradient")
    apart = [np.abs(own[0][f"block {n}"] - theirs[0][f"{case} {n}"]).max() for n in names]
    return {
        "Ensue is faster": median(theirs, case) / block,
        "largest difference": float(max(apart)),
    }


def median(answers: list[dict[str, Any]], case: str) -> float:
    """Return the median seconds of all steps."""
    return float(np.median(np.concatenate([one[f"{case} seconds"] for one in answers])))


if __name__ == "__main__":
    sys.exit(main())
