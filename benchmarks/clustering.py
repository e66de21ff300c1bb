"""Clustering: its metrics and k-means beside other libraries, and digits found without labels.

    python -m benchmarks.clustering [--part metrics|kmeans|digits ...] [--reference PYTHON]
        [--pairs N] [--rows N] [--dim D] [--clusters K] [--threads T] [--rounds R]
        [--epochs E] [--picture SVG]

PYTHON is that of an environment with scikit-learn; FAISS is an extra of Ensue. What is not there is
left out. Each k-means runs with the same threads on the same rows: a mixture of Gaussians that
overlap, of a falling spectrum. They take turns, R times with seeds 0, 1, ...; figures are medians,
also of the ratios of each turn. Inertias are those of the centers, by one exact assignment.
Bars: metrics equal scikit-learn's to 1e-10; counts and accuracy of 1.28 million pairs in 0.05 s;
k-means reaches the inertia of MiniBatchKMeans in half its time, and that of FAISS within 1% in 1.2
times its time (1 or 2 passes are enough for both); on digits (../shared/data/mnist-t10k, the last
2,000 held out) accuracy with as many clusters as classes, the map fitted on the others, is .80 or
more from features, and .60 or less from pixels. The encoder's settings were chosen on the training
part.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._report import to_table, write_report
from benchmarks.distill_mnist import NUM_TRAIN, read_idx
from ensue.clustering.assign import assign
from ensue.clustering.kmeans import KMeansConfig, kmeans
from ensue.evaluation.clustering import SCORES, accuracy, agreement, contingency, fit_map
from ensue.runs.cluster import Clustering, cluster
from ensue.runs.cluster_data import make_data
from ensue.runs.encode import encode
from ensue.runs.plots import Line, draw_lines

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("mnist-t10k", "notmnist")
PEERS = Path(__file__).with_name("_clustering_peers.py")
ROUNDS = 7
NUM_CLASSES = 1000
MAIN = "hungarian, fitted on train"
OVER = (0.5, 0.8, 1, 1.5, 2, 3, 5, 10, 20, 50)
DIMS = (2, 4, 8, 16, 32, 64, 128)
SEEDS = range(3)
# As it comes, and stopped early.
OWN: dict[str, dict[str, Any]] = {
    "ensue": {},
    "ensue, 2 passes": {"lloyd_passes": 2},
    "ensue, 1 pass": {"lloyd_passes": 1},
}
SKLEARN = """
import sys, json, numpy as np
from sklearn import metrics as m
c, y = np.load(sys.argv[1])
names = ("adjusted_rand", "adjusted_mutual_info", "normalized_mutual_info", "v_measure",
         "fowlkes_mallows")
print(json.dumps([getattr(m, name + "_score")(y, c) for name in names]))
"""


def main() -> int:
    """Measure, print the tables, and write the reports."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--reference", type=Path, help="Python of an environment with scikit-learn")
    parser.add_argument("--pairs", type=int, default=1_280_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--picture", type=Path, help="SVG file of the curves over K and D'")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part in options.part:
        rows = PARTS[part](options)
        print(to_table(rows))
        used = {"threads": options.threads, **USED[part](options)}
        print(write_report(f"clustering_{part}", used, rows))
    return 0


def measure_metrics(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the seconds of counts, maps and agreement, and how far scikit-learn's values are."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, options.pairs)
    random = rng.integers(0, NUM_CLASSES, options.pairs)
    clusters = np.where(rng.random(options.pairs) < 0.4, labels, random)
    rows = []
    for name, own in (("40% right", clusters), ("random", random)):
        counts = contingency(own, labels)
        best = {
            "counts": lambda own=own: contingency(own, labels),
            "majority": lambda counts=counts: accuracy(counts, fit_map(counts, "majority")),
            "hungarian": lambda counts=counts: accuracy(counts, fit_map(counts, "hungarian")),
            "agreement": lambda counts=counts: agreement(counts),
        }
        seconds = {f"{what}, s": best_time(call) for what, call in best.items()}
        both = seconds["counts, s"] + seconds["hungarian, s"]
        gap = largest_gap(own, labels, options.reference)
        rows.append({"clusters": name, **seconds, "counts + hungarian, s": both, "gap": gap})
    return rows


def best_time(call: Any) -> float:
    """Return the least seconds of some calls after a first one."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def largest_gap(
    clusters: NDArray[np.int64], labels: NDArray[np.int64], python: Path | None
) -> float | str:
    """Return how far the scores of 20,000 pairs are from scikit-learn's, at most."""
    if python is None:
        return ""
    few = np.stack([clusters[:20_000], labels[:20_000]])
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/pairs.npy", few)
        command = [str(python), "-c", SKLEARN, f"{folder}/pairs.npy"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = [float(value) for value in told.strip(" []\n").split(",")]
    ours = agreement(contingency(*few))
    return max(abs(ours[name] - value) for name, value in zip(SCORES, theirs, strict=True))


def measure_kmeans(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return seconds and inertia of each library."""
    rows = draw_rows(options.rows, options.dim, 2 * options.clusters)
    pythons = {"scikit-learn": options.reference, "faiss": sys.executable}
    if find_spec("faiss") is None:
        pythons["faiss"] = None
    for name in [name for name, python in pythons.items() if python is None]:
        print(f"skipped: {name} is not there", file=sys.stderr)
        del pythons[name]
    rounds = []
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/rows.npy", rows)
        for seed in range(options.rounds):
            found = {
                name: by_ensue(rows, options.clusters, KMeansConfig(**settings), seed)
                for name, settings in OWN.items()
            }
            for name, python in pythons.items():
                found[name] = by_peer(name, python, Path(folder), options, seed)
            rounds.append(
                {name: (took, inertia_of(rows, centers)) for name, (took, centers) in found.items()}
            )
    table = []
    for name in rounds[0]:
        row: dict[str, Any] = {"k-means": name}
        for place, what in enumerate(("seconds", "inertia")):
            row[what] = float(np.median([one[name][place] for one in rounds]))
        for own in OWN:
            for place, what in enumerate(("time", "inertia")):
                ratios = [one[own][place] / one[name][place] for one in rounds]
                row[f"{what} of {own} / its"] = float(np.median(ratios))
        table.append(row)
    return table


def draw_rows(num_rows: int, dim: int, num_centers: int) -> NDArray[np.float32]:
    """Return rows of a mixture, whose coordinates vary less and less."""
    rng = np.random.default_rng(0)
    scales = (1 / np.sqrt(1 + np.arange(dim))).astype(np.float32)
    centers = rng.standard_normal((num_centers, dim), dtype=np.float32) * scales
    rows = rng.standard_normal((num_rows, dim), dtype=np.float32) * scales
    rows += centers[rng.integers(0, num_centers, num_rows)]
    return rows


def by_ensue(
    rows: NDArray[np.float32], num_clusters: int, config: KMeansConfig, seed: int
) -> tuple[float, NDArray[np.float32]]:
    """Return the seconds, and the centers."""
    kmeans(rows[:2000], 200, rng=np.random.default_rng(0))  # the first call compiles
    started = time.perf_counter()
    found = kmeans(rows, num_clusters, config, rng=np.random.default_rng(seed))
    return time.perf_counter() - started, found.centers


def by_peer(
    name: str, python: Path | str, folder: Path, options: argparse.Namespace, seed: int
) -> tuple[float, NDArray[np.float32]]:
    """Return the seconds, and the centers."""
    threads = str(options.threads)
    limits = {f"{kind}_NUM_THREADS": threads for kind in ("OMP", "OPENBLAS", "MKL")}
    centers = folder / "centers.npy"
    command = [str(python), str(PEERS), name, str(folder / "rows.npy"), str(options.clusters)]
    told = subprocess.run(
        [*command, str(centers), str(seed)],
        env={**os.environ, **limits},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return float(told.split()[-1]), np.load(centers).astype(np.float32)


def inertia_of(rows: NDArray[np.float32], centers: NDArray[np.float32]) -> float:
    """Return the sum of squared distances to the nearest of the centers."""
    return float(assign(rows, np.ascontiguousarray(centers))[1].sum())


def measure_digits(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of each set from pixels and from features; draw the curves."""
    rows = []
    for name in SETS:
        if not (DATA / name).is_dir():
            print(f"skipped: {DATA / name} does not exist", file=sys.stderr)
            continue
        images, labels = read_images(name)
        found = {"pixels": cluster_parts(images, labels)}
        with TemporaryDirectory() as folder:
            started = time.perf_counter()
            np.savez(f"{folder}/x.npz", x=images["train"], x_test=images["test"])
            encoded = encode(f"{folder}/x.npz", out=f"{folder}/out", epochs=options.epochs)
            seconds = time.perf_counter() - started
        found["features"] = cluster_parts(encoded.features, labels, over=OVER, dims=DIMS)
        rows += [row for kind in found for row in to_rows(name, kind, found[kind], seconds)]
        if options.picture and name == SETS[0]:
            draw(found["features"], options.picture)
    return rows


def read_images(name: str) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
    """Return images [n, 28, 28] and classes by part; rows of notmnist lie in a random order."""
    images = read_idx(DATA / name / "t10k-images-idx3-ubyte.gz")
    classes = read_idx(DATA / name / "t10k-labels-idx1-ubyte.gz").astype(np.int64)
    order = np.arange(len(images))
    if name == "notmnist":
        order = np.random.default_rng(0).permutation(order)
    parts = {"train": order[:NUM_TRAIN], "test": order[NUM_TRAIN:]}
    return (
        {part: images[at] for part, at in parts.items()},
        {part: classes[at] for part, at in parts.items()},
    )


def cluster_parts(vectors: Any, labels: Any, **sweeps: Any) -> Clustering:
    """Return the clusters of the training part, with both parts scored."""
    return cluster(make_data(vectors, labels), seeds=SEEDS, **sweeps)


def to_rows(name: str, kind: str, found: Clustering, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each setting; the seconds are those of the encoder."""
    return [
        {
            "set": name,
            "from": kind,
            "K": row["k"],
            "D'": row["dim"],
            "accuracy": row["scores"]["test"][MAIN],
            "+-": row["deviations"]["test"][MAIN],
            "by chance": row["chance"]["test"][MAIN],
            "majority": row["scores"]["test"]["majority, fitted on train"],
            "ARI": row["scores"]["test"]["ari"],
            "AMI": row["scores"]["test"]["ami"],
            "encoder, s": seconds if kind == "features" else 0.0,
        }
        for row in found.info["table"]
    ]


def draw(found: Clustering, path: Path) -> None:
    """Write the figures over K and over D' beside each other, as an SVG file of its own."""
    main = found.info["table"][0]
    drawings = []
    for name, other, label in (("k", "dim", "clusters"), ("dim", "k", "components")):
        chosen = [row for row in found.info["table"] if row[other] == main[other]]
        chosen.sort(key=lambda row: row[name])
        x = [row[name] for row in chosen]
        scores = [row["scores"]["test"] for row in chosen]
        lines = [
            Line("accuracy, held out", x, [one[MAIN] for one in scores], 0, "o-"),
            Line("ARI", x, [one["ari"] for one in scores], 1, "o-"),
            Line("AMI", x, [one["ami"] for one in scores], None, "--"),
        ]
        title = f"digits without labels, by {label}"
        drawings.append(draw_lines(title, lines, x_label=label, log="x"))
    path.write_text(beside(drawings) + "\n", encoding="utf-8")


def beside(drawings: list[str]) -> str:
    """Return drawings of one size side by side as one SVG that needs no page around it."""
    width, height = (
        float(v) for v in drawings[0].partition('viewBox="')[2].split('"')[0].split()[2:]
    )
    inner = "".join(
        drawing.replace("<svg", f'<svg x="{number * width}" width="{width}" height="{height}"', 1)
        for number, drawing in enumerate(drawings)
    )
    for variable, color in (("--series-1", "#2a6fb0"), ("--series-2", "#c4622d")):
        inner = inner.replace(f"var({variable})", color)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width * len(drawings)} {height}" color="#333" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{inner}</svg>'
    )


PARTS = {"metrics": measure_metrics, "kmeans": measure_kmeans, "digits": measure_digits}
USED = {
    "metrics": lambda options: {"pairs": options.pairs, "classes": NUM_CLASSES},
    "kmeans": lambda options: {
        "rows": options.rows,
        "dim": options.dim,
        "clusters": options.clusters,
        "rounds": options.rounds,
    },
    "digits": lambda options: {"epochs": options.epochs, "seeds": len(SEEDS)},
}


if __name__ == "__main__":
    sys.exit(main())
