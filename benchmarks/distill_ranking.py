"""Students of sequential models: ranking distillation and top-k soft targets.

    python -m benchmarks.distill_ranking gowalla [--seeds 0 1 2] [--only hybrid position]
    python -m benchmarks.distill_ranking ml-1m [--seeds 0 1 2]
    python -m benchmarks.distill_ranking cost
    ... gowalla --runs FOLDER     keep the runs, and go on with those that are there; or ml-1m

gowalla: Caser d=100 to d=50, data of `benchmarks.caser gowalla`, training and distillation as in
the authors' program, but that students start with the teacher's tables (`--start random` does not);
the weightings of the paper's Table 4. Bars: MAP at least 1.03 x the student alone and .99 x the
teacher; hybrid above position above 1/K; an answer of the student in .6 of the teacher's time.
ml-1m: SASRec dim 128 to dim 32, leave-one-out, the teacher by the preset ml-1m. Bar: one of the two
methods recovers 60% of the gap in NDCG@10.
cost: building the answers to all ML-1M prefixes at K=10 (bar: 60 s), and the time of an epoch with
a teacher over that without, in turn (bar: 1.3).
Data: ../shared/data (see its README files); it is not part of the project.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ensue
from benchmarks import caser, sasrec
from benchmarks._report import to_table, write_report
from ensue.data.dataset import Dataset
from ensue.runs.run import Run

# The training of the authors' program: 12 epochs of four orders are as many windows as its 50.
GOWALLA: dict[str, Any] = {
    "preset": "gowalla",
    "num_negatives": 3,
    "loss": "sum",
    "decay": "none",
    "epochs": 12,
}
# Of students: of those that start at random as of all models, and 10 of 50 epochs without ranks. On
# validation those that start with the teacher's tables are best after 3 to 5 epochs.
STUDENT_EPOCHS = {"random": 12, "teacher": 4}
BURN_IN = {"random": 2, "teacher": 1}
# MAP of the paper's Table 2 and Table 4.
PUBLISHED = {
    "teacher": 0.0958,
    "alone": 0.0919,
    "uniform": 0.0925,
    "position": 0.0945,
    "discrepancy": 0.0937,
    "hybrid": 0.0969,
}
WEIGHTINGS = ("uniform", "position", "discrepancy", "hybrid")
ML_1M: dict[str, Any] = {"preset": "ml-1m", "fit": "train+validation"}
# The preset's dropout is for a wider model. On validation the student alone has .187 with these
# settings, .181 with a rate of .004 and 16 epochs.
ML_1M_STUDENT: dict[str, Any] = {
    "dim": 32,
    "hidden_dim": 128,
    "dropout": 0.0,
    "learning_rate": 0.006,
    "epochs": 32,
}
# The 500 best items hold .93 of the teacher's probability, the 100 best .73.
ML_1M_METHODS: dict[str, dict[str, Any]] = {
    "rd": {},
    "kd-topk": {"teacher_weight": 0.8, "num_kept": 500},
}
COST_EPOCHS = 3


def main() -> int:
    """Run the chosen benchmark, print its tables, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["gowalla", "ml-1m", "cost"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--epochs", type=int, help="of what is not distilled in gowalla, of the teacher of ml-1m"
    )
    parser.add_argument("--only", nargs="+", choices=WEIGHTINGS, help="some weightings of gowalla")
    parser.add_argument(
        "--start", choices=["random", "teacher"], default="teacher", help="of distilled students"
    )
    parser.add_argument(
        "--precision",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="of ml-1m and cost; bfloat16 is slow on a processor without instructions for it",
    )
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs, not of cost")
    arguments = parser.parse_args()
    if arguments.runs and arguments.kind == "cost":
        parser.error("cost trains everything anew: it takes no --runs")
    if not caser.SHARED.is_dir():
        print(f"skipped: {caser.SHARED} does not exist", file=sys.stderr)
        return 0
    run: Callable[[Path, argparse.Namespace], list[dict[str, Any]]]
    run = {"gowalla": gowalla, "ml-1m": ml_1m, "cost": cost}[arguments.kind]
    with tempfile.TemporaryDirectory() as temporary:
        # Runs of other settings are others: a finished one is taken as it is.
        own = f"{arguments.kind}-{arguments.epochs or 'preset'}-{arguments.precision}"
        folder = arguments.runs / own if arguments.runs else Path(temporary)
        rows = run(folder, arguments)
    print(to_table(rows))
    config = {name: value for name, value in vars(arguments).items() if name != "runs"}
    print(write_report(f"distill_ranking_{arguments.kind}", config, rows))
    return 0


def _once(out: Path, make: Callable[..., Run]) -> Run:
    """Return the run at `out`, made now, or gone on with, if it is not there."""
    if (out / "run.json").is_file():
        return ensue.load(out)
    return make(out=out, resume=(out / "checkpoints").is_dir())


def _prepared(out: Path, prepare: Callable[[Path], Dataset]) -> Dataset:
    """Return the data set at `out`, prepared now if it is not there."""
    if (out / "dataset.json").is_file():
        return Dataset(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return prepare(out)


def gowalla(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for the teacher, the student alone, and each weighting."""
    dataset = _prepared(folder / "dataset", partial(caser.prepare, "gowalla"))
    settings = {**GOWALLA, **({"epochs": arguments.epochs} if arguments.epochs else {})}
    weightings = arguments.only or WEIGHTINGS
    found: dict[str, list[dict[str, float]]] = {}
    ratios = []
    for seed in arguments.seeds:
        runs = _gowalla_runs(
            folder / str(seed), dataset, settings, weightings, seed, arguments.start
        )
        for name, one in runs.items():
            metrics = one.evaluate(dataset, ks=(3, 5, 10), num_resamples=0).metrics
            chosen = ("map", "precision@10", "ndcg@10")
            found.setdefault(name, []).append({metric: metrics[metric] for metric in chosen})
            print(f"{name}-{seed}: map {metrics['map']:.4f}", file=sys.stderr, flush=True)
        table = ensue.tradeoff([runs["teacher"], runs["alone"]], dataset, num_resamples=0)
        ratios.append(
            {size: table.costs[1].ms[size] / table.costs[0].ms[size] for size in ("1", "256")}
        )
    rows = []
    for name, values in found.items():
        maps = [value["map"] for value in values]
        means = {metric: statistics.fmean(v[metric] for v in values) for metric in values[0]}
        time_ratio = {
            f"time / teacher, {size} at a time": statistics.median(ratio[size] for ratio in ratios)
            if name != "teacher"
            else 1.0
            for size in ("1", "256")
        }
        rows.append(
            {
                "model": name,
                **means,
                "MAP from to": f"{min(maps):.4f} {max(maps):.4f}",
                "published MAP": PUBLISHED[name],
                **time_ratio,
            }
        )
    return rows


def _gowalla_runs(
    folder: Path,
    dataset: Dataset,
    settings: dict[str, Any],
    weightings: Sequence[str],
    seed: int,
    start: str,
) -> dict[str, Run]:
    """Return the runs of one seed."""
    common = {**settings, "seed": seed, "fit": "train+validation"}
    runs = {}
    for name, dim in (("teacher", 100), ("alone", 50)):
        train = partial(ensue.train, "caser", dataset, dim=dim, **common)
        runs[name] = _once(folder / name, train)
    for weighting in weightings:
        distill = partial(ensue.distill, runs["teacher"], dataset, dim=50, seed=seed)
        distill = partial(distill, weighting=weighting, burn_in=BURN_IN[start], start=start)
        distill = partial(distill, epochs=STUDENT_EPOCHS[start])
        runs[weighting] = _once(folder / f"{weighting}-{start}", distill)
    return runs


def ml_1m(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for the teacher, the student alone, and each method."""
    source = sasrec.SHARED / sasrec.FILES["ml-1m"]
    prepare = partial(ensue.prepare, source, split="leave-one-out")
    dataset = _prepared(folder / "dataset", prepare)
    settings = {**ML_1M, "precision": arguments.precision}
    settings |= {"epochs": arguments.epochs} if arguments.epochs else {}
    train = partial(ensue.train, "sasrec", dataset, **settings)
    teacher = _once(folder / "teacher", partial(train, dim=128))
    runs: dict[str, list[Run]] = {"teacher": [teacher]}
    for seed in arguments.seeds:
        alone = _once(folder / f"alone-{seed}", partial(train, seed=seed, **ML_1M_STUDENT))
        runs.setdefault("alone", []).append(alone)
        for method, own in ML_1M_METHODS.items():
            distill = partial(ensue.distill, teacher, dataset, method=method, seed=seed)
            distill = partial(distill, start=arguments.start, **ML_1M_STUDENT, **own)
            one = _once(folder / f"{method}-{arguments.start}-{seed}", distill)
            runs.setdefault(method, []).append(one)
    values = {
        name: [_leave_one_out(one, dataset) for one in several] for name, several in runs.items()
    }
    mean = {name: statistics.fmean(v["ndcg@10"] for v in found) for name, found in values.items()}
    gap = mean["teacher"] - mean["alone"]
    return [
        {
            "model": name,
            "hr@10": statistics.fmean(v["hr@10"] for v in found),
            "ndcg@10": mean[name],
            "from to": " ".join(
                f"{extreme(v['ndcg@10'] for v in found):.4f}" for extreme in (min, max)
            ),
            "of the gap": (mean[name] - mean["alone"]) / gap,
        }
        for name, found in values.items()
    ]


def _leave_one_out(run: Run, dataset: Dataset) -> dict[str, float]:
    found = run.evaluate(dataset, ks=(10,), num_resamples=0).metrics
    print(f"{run.path.name}: ndcg@10 {found['ndcg@10']:.4f}", file=sys.stderr, flush=True)
    return {name: found[name] for name in ("hr@10", "ndcg@10")}


def cost(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the time of the answers, and of an epoch with a teacher over that without."""
    source = sasrec.SHARED / sasrec.FILES["ml-1m"]
    dataset = ensue.prepare(source, folder / "ml-1m", split="leave-one-out")
    settings = {**ML_1M, "epochs": 1, "precision": arguments.precision}
    teacher = ensue.train("sasrec", dataset, out=folder / "teacher", dim=128, **settings)
    rows = []
    ways: dict[str, dict[str, Any]] = {"rd": {}, "kd-topk": {"num_kept": 10}}
    for method, own in ways.items():
        started = time.perf_counter()
        built = ensue.distill(teacher, dataset, out=folder / f"{method}-0", method=method, **own)
        training = sum(line["seconds"] for line in built.log())
        seconds = time.perf_counter() - started - training
        rows.append({"what": f"answers to all prefixes of ML-1M, {method}, K=10", "s": seconds})
    student = {**ML_1M_STUDENT, "epochs": 1}
    rows += _ratios(
        "SASRec on ML-1M", folder, teacher, dataset, student, ("rd", "kd-topk"), settings
    )
    gowalla_data = caser.prepare("gowalla", folder / "gowalla", 1)
    common = {**GOWALLA, "epochs": 1, "fit": "train+validation"}
    large = ensue.train("caser", gowalla_data, out=folder / "large", dim=100, **common)
    rows += _ratios("Caser on Gowalla", folder, large, gowalla_data, {"dim": 50}, ("rd",), common)
    return rows


def _ratios(
    name: str,
    folder: Path,
    teacher: Run,
    dataset: Dataset,
    student: dict[str, Any],
    methods: tuple[str, ...],
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the median seconds of an epoch, plain and with each method, trained in turn."""
    seconds: dict[str, list[float]] = {}
    for turn in range(COST_EPOCHS):
        out = folder / f"plain-{turn}"
        model = teacher.info["model"]
        plain = ensue.train(model, dataset, out=out, overwrite=True, **{**settings, **student})
        seconds.setdefault("plain", []).append(plain.log()[0]["seconds"])
        for method in methods:
            own: dict[str, Any] = {"burn_in": 0} if method == "rd" else {"num_kept": 10}
            out = folder / f"{method}-{turn}"
            one = ensue.distill(
                teacher, dataset, out=out, overwrite=True, method=method, **student, **own
            )
            seconds.setdefault(method, []).append(one.log()[0]["seconds"])
    plain_seconds = statistics.median(seconds["plain"])
    return [
        {
            "what": f"{name}, an epoch, {method}",
            "s": statistics.median(values),
            "over plain": statistics.median(values) / plain_seconds,
        }
        for method, values in seconds.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
