"""How large a learning rate Clippy takes, beside plain Adagrad and the other rules.

    python -m benchmarks.clippy_stability -o runs/stability [--rules none,clippy] [--seeds 0,1]
                                          [--rates .005,.01] [--steps 200] [--width 1024]

The synthetic stream, a shared bottom of 4 layers. Trainings that are in the folder are not
repeated: a sweep may be interrupted, and made in pieces. Rates above one at which all seeds
diverged are left out. Bars, over five seeds: the largest rate without a divergence is at least 4
times that of plain Adagrad and 2 times that of GC and AGC at their best thresholds, and at the
smallest rate the quality is that of plain Adagrad within noise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks._report import to_table, write_report
from ensue.runs.stability import stability
from ensue.runs.stability_result import Outcome, RuleResult, Stability
from ensue.runs.stability_stream import StreamBenchConfig, stream_bench

RULES = (
    "none", "clippy", "gc:0.1", "agc:0.01", "lamb:0.01", "gc:1", "gc:0.01", "agc:0.001",
    "lamb:0.1", "lamb:0.001", "gc:0.001", "agc:0.0001", "gc:10", "agc:0.1",
)  # fmt: skip
RATES = tuple(0.00125 * 2**n for n in range(12))


def main() -> int:
    """Train what is not there yet, print the tables, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rules", type=lambda text: text.split(","), default=list(RULES))
    parser.add_argument("--rates", type=_numbers, default=list(RATES))
    parser.add_argument("--seeds", type=_numbers, default=[0.0, 1.0, 2.0, 3.0, 4.0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--warmup-steps", type=int, default=0)
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("steps", "batch_size", "width")}
    found = stability(
        stream_bench(StreamBenchConfig(**sizes)),
        out=arguments.output,
        rules=arguments.rules,
        rates=arguments.rates,
        seeds=[int(seed) for seed in arguments.seeds],
        settings={"warmup_steps": arguments.warmup_steps},
        until_diverged=True,
        resume=True,
    )
    rows = [_row(rule) for rule in found.rules]
    print(to_table(rows))
    claims = list(_claims(found))
    for claim in claims:
        print(claim["claim"], claim["value"])
    config = {**sizes, "seeds": len(arguments.seeds), "warmup_steps": arguments.warmup_steps}
    config |= {"threads": torch.get_num_threads(), "rules": rows, "claims": claims}
    print(write_report("clippy_stability", config, list(_points(found))))
    return 0


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _row(rule: RuleResult) -> dict[str, Any]:
    """Return what a rule came to."""
    smallest = rule.points[0]
    best = rule.best or smallest
    return {
        "rule": rule.rule,
        "largest rate": rule.largest_rate,
        "without spikes": rule.largest_calm_rate,
        "AUC at the smallest": smallest.auc,
        "sd": smallest.auc_deviation,
        "best AUC": best.auc,
        "best sd": best.auc_deviation,
        "at rate": best.rate,
    }


def _points(found: Stability) -> Iterator[dict[str, Any]]:
    for rule in found.rules:
        for point in rule.points:
            yield {
                "rule": rule.rule,
                "rate": point.rate,
                "trainings": point.num_runs,
                "diverged": point.diverged,
                "micro": point.micro,
                "AUC": point.auc,
                "sd": point.auc_deviation,
                "RMSE": point.rmse,
            }


def _claims(found: Stability) -> Iterator[dict[str, Any]]:
    """Yield the figures that the bars are about; those of a rule that was not trained are left out.

    The threshold of a rule is that of the best AUC at any rate.
    """
    rules = {rule.rule: rule for rule in found.rules}
    if "clippy" not in rules:
        return
    clippy = rules["clippy"]
    for name in ("none", "gc", "agc", "lamb"):
        own = [rule for rule in rules.values() if rule.rule.partition(":")[0] == name]
        tuned = max(own, key=lambda rule: _row(rule)["best AUC"] or 0.0, default=None)
        if tuned is None:
            continue
        largest = tuned.largest_rate
        ratio = clippy.largest_rate / largest if largest and clippy.largest_rate else None
        yield {"claim": f"largest rate over that of {tuned.rule}", "value": ratio}
    if "none" in rules:
        yield from _at_the_smallest(found)


def _at_the_smallest(found: Stability) -> Iterator[dict[str, Any]]:
    """Yield the AUC of Clippy less that of plain Adagrad at the smallest rate, seed by seed."""
    rate = min(outcome.rate for outcome in found.outcomes)
    of_rule = {
        name: {o.seed: _auc(o) for o in found.outcomes if o.rule == name and o.rate == rate}
        for name in ("clippy", "none")
    }
    seeds = of_rule["clippy"].keys() & of_rule["none"].keys()
    pairs = [(of_rule["clippy"][seed], of_rule["none"][seed]) for seed in sorted(seeds)]
    gaps = [one - other for one, other in pairs if one is not None and other is not None]
    if gaps:
        claim = f"AUC less that of plain Adagrad at {rate:g}"
        yield {"claim": claim, "value": statistics.fmean(gaps)}
        spread = statistics.stdev(gaps) if len(gaps) > 1 else None
        yield {"claim": "its deviation over seeds", "value": spread}


def _auc(outcome: Outcome) -> float | None:
    values = [value for value in outcome.quality["auc"].values() if value is not None]
    return statistics.fmean(values) if values else None


if __name__ == "__main__":
    sys.exit(main())
