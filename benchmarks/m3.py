"""M3 and GRU4Rec on MovieLens-1M, leave-one-out: the ablation of the paper, the gates, M3C.

    python -m benchmarks.m3                               every row
    python -m benchmarks.m3 --only tsl gru4rec --seeds 3  some of them

Each user's last item is the target, ranked against the whole catalogue without the items the user
had; every row is trained on all but the last item, for the same number of epochs in which the
learning rate falls to zero. With one target mAP@20 is the reciprocal rank, cut at 20. The published
column is MovieLens-20M (poster of the paper): another data set and filter, so only the order of its
rows can be compared.
Data: ../shared/data (see its README files); it is not part of the project.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import ensue
from benchmarks._report import to_table, write_report
from ensue.data.dataset import Dataset

SOURCE = Path(__file__).parents[2] / "shared" / "data" / "ml-1m" / "sequences.txt.gz"
KS = (5, 10, 20)
# The same for every row; not searched.
TRAINING: dict[str, Any] = {
    "max_len": 200,
    "crop": "random",
    "batch_size": 32,
    "learning_rate": 0.003,
    "warmup_steps": 100,
    "decay": "cosine",
}
# Compared with the model's defaults in 6 epochs: validation mAP@20 .1172 against .1087; "tsl-wide"
# has .1205 where the same with a layer of 256 has .1170.
M3_SETTINGS: dict[str, Any] = {"hidden_dim": 256, "norm": True, "attention": "projected"}
EPOCHS = 10


class Variant(NamedTuple):
    """A row of the table: the model, what sets it apart, and the published mAP@20."""

    model: str
    settings: dict[str, Any]
    published: float | None = None


VARIANTS = {
    "t": Variant("m3", {"parts": "t"}, 0.0269),
    "s": Variant("m3", {"parts": "s"}, 0.0363),
    "l": Variant("m3", {"parts": "l"}, 0.0266),
    "ts": Variant("m3", {"parts": "ts"}, 0.0412),
    "tl": Variant("m3", {"parts": "tl"}, 0.0293),
    "sl": Variant("m3", {"parts": "sl"}, 0.0403),
    "tsl": Variant("m3", {}, 0.0421),
    "tsl-wide": Variant("m3", {"long_reads_last": False, "hidden_dim": 512}),
    "fixed": Variant("m3", {"gates": "fixed"}),
    "top": Variant("m3", {"gates": "top"}),
    "sum": Variant("m3", {"mixture": "sum"}),
    "tied": Variant("m3", {"output": "tied"}),
    "m3c": Variant("m3", {"short": "conv"}, 0.0379),
    "gru4rec": Variant("gru4rec", {}, 0.0343),
}


def main() -> int:
    """Run the chosen rows, print a table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(VARIANTS), nargs="+", help="some rows")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--precision",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="bfloat16 is slow on a processor without instructions for it",
    )
    arguments = parser.parse_args()
    if not SOURCE.is_file():
        print(f"skipped: {SOURCE} does not exist", file=sys.stderr)
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = ensue.prepare(SOURCE, folder / "dataset", split="leave-one-out")
        for name in arguments.only or VARIANTS:
            variant = VARIANTS[name]
            runs = [
                measure(
                    dataset,
                    folder / f"{name}-{seed}",
                    variant,
                    epochs=arguments.epochs,
                    precision=arguments.precision,
                    seed=seed,
                )
                for seed in range(arguments.seeds)
            ]
            row = {"variant": name, **summarize(runs)}
            rows.append(row | {"published, ML-20M": variant.published or "-"})
            print(to_table(rows[-1:]), flush=True)
    title = "_".join(["m3", "ml-1m", *(arguments.only or [])])
    config = {"protocol": "leave-one-out, whole catalogue", **TRAINING, "m3": M3_SETTINGS}
    config |= vars(arguments)
    print(to_table(rows))
    print(write_report(title, config, rows))
    return 0


def measure(
    dataset: Dataset, out: Path, variant: Variant, *, epochs: int, precision: str, seed: int
) -> dict[str, float]:
    """Train on all but the last item of each user, evaluate on it, and return figures."""
    started = time.perf_counter()
    own = {**M3_SETTINGS, **variant.settings} if variant.model == "m3" else variant.settings
    run = ensue.train(
        variant.model,
        dataset,
        out=out,
        fit="train+validation",
        epochs=epochs,
        precision=precision,
        seed=seed,
        **TRAINING,
        **own,
    )
    found = run.evaluate(dataset, ks=KS, num_resamples=0).metrics
    print(f"{out.name}: map@20 {found['map@20']:.4f}", file=sys.stderr, flush=True)
    return {
        **{f"map@{k}": found[f"map@{k}"] for k in KS},
        "hr@10": found["hr@10"],
        "ndcg@10": found["ndcg@10"],
        "s/epoch": statistics.median(line["seconds"] for line in run.log()),
        "seconds": time.perf_counter() - started,
    }


def summarize(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the mean of each figure over the seeds, and the spread of mAP@20."""
    values = [run["map@20"] for run in runs]
    return {
        **{name: statistics.fmean(run[name] for run in runs) for name in runs[0]},
        "map@20 min": min(values),
        "map@20 max": max(values),
        "seeds": len(runs),
    }


if __name__ == "__main__":
    sys.exit(main())
