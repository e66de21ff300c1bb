"""How far fake users push items in models of Gowalla: surrogate, victims, popularity.

    python -m benchmarks.injection_gowalla [-o FOLDER] [--attacks wrmf-sgd ...] [--seeds 0 ...]
    python -m benchmarks.injection_gowalla --defences drop cap:90% --victims item_knn wrmf

../shared/data/gowalla-15core with the authors' random split and their five targets of each band of
popularity (Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876); 131 fake users, 1% of the real ones.
Victims are trained without and with fake users. `-o` keeps the runs and the audit, and a second
call goes on where the first one stopped. Nothing of the victims was searched for this data.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

import ensue
from benchmarks._report import to_table, write_report
from ensue.runs.audit import audit
from ensue.runs.audit_result import Audit
from ensue.runs.run import Run

SOURCE = Path(__file__).resolve().parents[2] / "shared/data/gowalla-15core/random_split.txt.gz"
TARGETS = {  # the authors' choice
    "head": "259,2272,3010,6737,7690",
    "upper torso": "1181,1200,2725,4228,6688",
    "lower torso": "3227,5810,7402,9272,10551",
    "tail": "5611,9213,10359,10395,12308",
}
VICTIMS: dict[str, tuple[str, dict[str, Any]]] = {
    "item_knn": ("item_knn", {}),
    "wrmf": ("wrmf", {"dim": 128, "weight": 20.0, "ridge": 0.05}),
    "bpr": ("bpr", {"epochs": 15, "learning_rate": 0.005}),
    "mult_vae": ("mult_vae", {"epochs": 4}),
    "ease": ("ease", {}),
    "caser": ("caser", {"epochs": 2, "learning_rate": 0.003}),
}
BUDGET = 131


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, help="folder that keeps what was made")
    parser.add_argument("--attacks", nargs="+", default=["wrmf-sgd", "popular"])
    parser.add_argument("--victims", nargs="+", default=list(VICTIMS), choices=list(VICTIMS))
    parser.add_argument("--bands", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--defences", nargs="+", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tracked", type=int, help="epochs of wrmf-sgd; all by default")
    parser.add_argument("--iterations", type=int, default=30)
    options = parser.parse_args()
    if not SOURCE.is_file():
        print(f"skipped: {SOURCE} does not exist", file=sys.stderr)
        return 0
    with TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        dataset = prepare(out / "gowalla")
        runs = [victim(name, dataset, out / "runs") for name in options.victims]
        found = audit(
            runs,
            dataset,
            out=out / "audit",
            targets=[TARGETS[band] for band in options.bands],
            budgets=[BUDGET],
            attacks=options.attacks,
            defences=options.defences,
            seeds=options.seeds,
            settings=settings_of(options),
            resume=(out / "audit").is_dir(),
        )
    rows = table(found, options.bands)
    print(to_table(rows))
    config = {"fake users": BUDGET, "seeds": options.seeds, "settings": settings_of(options)}
    print(write_report("injection_gowalla", config, rows))
    return 0


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the learned attacks among those asked for."""
    settings: dict[str, Any] = {}
    if any(name.startswith(("wrmf", "item")) for name in options.attacks):
        settings["iterations"] = options.iterations
    if "wrmf-sgd" in options.attacks and options.tracked is not None:
        settings["wrmf-sgd.tracked_epochs"] = options.tracked
    return settings


def prepare(folder: Path) -> ensue.Dataset:
    """Return the dataset that is in the folder, or make it there."""
    if (folder / "dataset.json").is_file():
        return ensue.Dataset(folder)
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}
    with gzip.open(SOURCE, "rt") as lines:
        for line in lines:
            user, *items = line.rstrip("\n").split("\t")
            for rows, own in zip(parts.values(), items, strict=True):
                rows.extend((int(user), int(item)) for item in own.split())
    with TemporaryDirectory() as temporary:
        files = {}
        for name, rows in parts.items():
            files[name] = Path(temporary) / f"{name}.parquet"
            pl.DataFrame(rows, schema=["user", "item"], orient="row").write_parquet(files[name])
        return ensue.prepare(files, out=folder)


def victim(name: str, dataset: ensue.Dataset, folder: Path) -> Run:
    """Return the run of a victim that is in the folder, or train it there."""
    model, settings = VICTIMS[name]
    if not (folder / name / "run.json").is_file():
        resume = (folder / name).is_dir()
        return ensue.train(model, dataset, out=folder / name, resume=resume, **settings)
    return ensue.load(folder / name)


def table(found: Audit, bands: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each attack, band and victim."""
    # An audit numbers the targets that are given by their ids.
    names = {f"items-{n}" if n > 1 else "items": band for n, band in enumerate(bands, start=1)}
    rows = []
    for effect in found.effects:
        low, high = effect.interval
        recall_before, recall_after = effect.accuracy["recall@50"]
        rows.append(
            {
                "attack": effect.attack,
                "targets": names[effect.targets],
                "victim": effect.victim,
                "defence": effect.defence or "",
                "HR@50 before": effect.before,
                "after": effect.after,
                "lift": effect.lift,
                "of the lift is left": effect.kept_lift,
                "95% interval": f"{low:.4f} to {high:.4f}",
                "mean rank before": effect.rank_before,
                "mean rank after": effect.rank_after,
                "recall@50 before": recall_before,
                "recall@50 after": recall_after,
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
