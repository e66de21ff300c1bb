"""A direction of time where the answer is known, in patients, in engines, and in users.

    python -m benchmarks.longitudinal [synthetic] [oasis2] [cmapss] [ml1m] [--data DIR] [-o DIR]

Each training is kept in DIR: the same command goes on where it was interrupted.

synthetic: the table of the method's specification, 400 entities to train on and 300 to test, means
of the seeds. How well any direction can do depends on the drawn matrices: how far that of the
factor is from those of the others. World 17 is the one of the first 20 whose row without a
direction is nearest to that of the table; --worlds takes others: over all 20 the second bar is
missed.
    Bars, lambda 0.1: cosine .7 and more, Spearman .94 and more.
oasis2: 150 subjects, 373 sessions; five folds of subjects; days become years. Clinical scores that
define the groups (CDR) are no features.
cmapss: FD001, 100 engines to failure; five folds of engines; pairs 20 cycles apart; sensors of one
cycle, and means of the last 10: a single cycle is half noise, and an engine does not wear at first.
    Bar: |Spearman| with remaining life of held-out engines .8 and more, above the autoencoder's.
ml1m: windows of 20 ratings. The log has no times, so the coordinate is compared with the number of
the window, over all and within users, before and after what the popularity and the years of its
films and the length of the history explain is taken off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._longitudinal_data import (
    SENSORS,
    cmapss,
    ml1m,
    oasis2,
    planted_visits,
    release_years,
)
from benchmarks._report import to_table, write_report
from benchmarks._retrieval_data import SHARED
from ensue.data.longitudinal.history_windows import history_windows
from ensue.data.longitudinal.tables import read_visits
from ensue.data.longitudinal.visits import Visits
from ensue.evaluation.longitudinal import correlation, r_squared, spearman
from ensue.runs.longitudinal import longitudinal
from ensue.runs.longitudinal_fit import fit
from ensue.runs.longitudinal_measure import (
    Fold,
    held_out_coordinate,
    measure_error,
    measure_orders,
)
from ensue.runs.longitudinal_result import MARKER, Longitudinal, load_longitudinal
from ensue.runs.longitudinal_settings import settings_of

NUM_TRAIN = 400
OASIS_FEATURES = ["nWBV", "eTIV", "ASF", "MMSE"]
METHODS = ("lssl", "ae", "vae", "beta-vae", "simclr", "pca")


def main() -> int:
    """Run what is asked for, print tables, and write the report of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="synthetic, oasis2, cmapss, ml1m; default: all")
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("-o", "--output", type=Path, default=Path("longitudinal-benchmark"))
    parser.add_argument("--seeds", type=int, default=4, help="of the synthetic table")
    parser.add_argument("--worlds", type=int, nargs="+", default=[17])
    parser.add_argument("--epochs", type=int, default=60, help="of every training but cmapss, ml1m")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--engines-epochs", type=int, default=20)
    parser.add_argument("--spans", type=int, nargs="+", default=[1, 10], help="cycles of an engine")
    parser.add_argument("--users-epochs", type=int, default=10)
    arguments = parser.parse_args()
    parts = {"synthetic": synthetic, "oasis2": patients, "cmapss": engines, "ml1m": users}
    for name in arguments.parts or parts:
        rows = parts[name](arguments)
        print(to_table(rows), flush=True)
        chosen = {name: v for name, v in vars(arguments).items() if name not in ("data", "output")}
        config = {**chosen, "threads": torch.get_num_threads()}
        print(write_report(f"longitudinal_{name}", config, rows), flush=True)
    return 0


def synthetic(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each gain and weight, and the autoencoder's for weight 0."""
    rows = []
    for gain in (1, 2):
        for weight in (0.0, 0.1, 1.0, 5.0):
            found = [
                _planted(arguments, world, seed, gain, weight)
                for world in arguments.worlds
                for seed in range(arguments.seeds)
            ]
            means = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
            rows.append({"gain": gain, "lambda": weight, **means})
            print(to_table(rows[-1:]), flush=True)
    return rows


def _planted(
    arguments: argparse.Namespace, world: int, seed: int, gain: int, weight: float
) -> dict[str, float]:
    planted = planted_visits(world, seed, gain)
    visits = planted.visits
    method = "lssl" if weight > 0 else "ae"
    settings: dict[str, Any] = {"epochs": arguments.epochs, "seed": seed}
    if weight > 0:
        settings["weight"] = weight
    plan = settings_of([method], settings, visits.measured)[method]
    is_train = np.arange(visits.num_entities) < NUM_TRAIN
    train, held = visits.of_entities(is_train), visits.of_entities(~is_train)
    folder = arguments.output / "synthetic" / f"{world}-{seed}-{gain}-{weight}-{arguments.epochs}"
    fitted = fit(visits, train, plan, directory=folder, resume=True)
    fold = Fold(fitted, fitted.codes(visits.measured).double().numpy(), train, held)
    order, error = measure_orders(visits, [fold], None), measure_error(visits, [fold])
    coordinate = held_out_coordinate([fold], len(visits))[held]
    others = [correlation(coordinate, other) ** 2 for other in planted.others[held].T]
    return {
        "test MSE": float(error or 0.0),
        "mean cos": order.cosine,
        "Spearman": spearman(coordinate, planted.factor[held]),
        "ordered pairs": order.ordered,
        "R2 of s": float(np.mean(others)),
    }


def patients(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each method and weight on OASIS-2."""
    visits = read_visits(
        oasis2(arguments.data),
        entity="Subject ID",
        time="years",
        features=OASIS_FEATURES,
        others=["Age", "M/F", "Group"],
    )
    settings = {"dim": 4, "hidden": [32], "epochs": arguments.epochs, "weight": 0.1}
    found = _study(
        arguments,
        "oasis2",
        visits,
        settings,
        group="Group",
        against=["Age", "M/F"],
        probes=["Group"],
    )
    rows = []
    for method in found.methods:
        slopes = {group.group: group for group in method.slopes.groups}
        demented, others = slopes["Demented"], slopes["Nondemented"]
        difference = others.difference or demented.difference or 0.0
        p_value = others.p_value if others.difference is not None else demented.p_value
        age = method.agreements["Age"]
        probe = next(probe for probe in method.probes if probe.head == "codes").metrics
        rows.append(
            {
                "method": method.method,
                "ordered pairs": method.order.ordered,
                "mean cos": method.order.cosine,
                "Spearman with age": age.spearman,
                "95%": "{:.3f} to {:.3f}".format(*(age.interval or (0, 0))),
                "slope, demented": demented.slope,
                "nondemented": others.slope,
                "difference": abs(difference),
                "p": p_value,
                "R2 of sex": method.agreements["M/F"].r2,
                "balanced accuracy": probe["balanced_accuracy"],
                "AUC": probe["auc"],
            }
        )
    return rows


def engines(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each method on C-MAPSS, of single cycles and of means of some."""
    return [row for span in arguments.spans for row in _engines(arguments, span)]


def _engines(arguments: argparse.Namespace, span: int) -> list[dict[str, Any]]:
    visits = read_visits(
        cmapss(arguments.data, span),
        entity="engine",
        time="cycle",
        features=SENSORS,
        others=["cycles left"],
    )
    settings = {
        "dim": 8,
        "hidden": [64, 64],
        "epochs": arguments.engines_epochs,
        "weight": 0.1,
        "min_gap": 20,
        "pairs_per_epoch": 20_000,
        "batch_size": 256,
    }
    found = _study(arguments, f"cmapss-{span}", visits, settings, against=["cycles left"])
    rows = []
    for method in found.methods:
        left = method.agreements["cycles left"]
        rows.append(
            {
                "cycles": span,
                "method": method.method,
                "ordered pairs": method.order.ordered,
                "mean cos": method.order.cosine,
                "Spearman with cycles left": left.spearman,
                "95%": "{:.3f} to {:.3f}".format(*(left.interval or (0, 0))),
                "R2": left.r2,
                "R2 of all codes": left.r2_codes,
                "error": method.error,
            }
        )
    return rows


def users(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each method on the users of ML-1M."""
    dataset = ml1m(arguments.data, arguments.output / "ml1m-data")
    visits = history_windows(dataset, length=20)
    settings = {
        "dim": 16,
        "hidden": [128],
        "epochs": arguments.users_epochs,
        "weight": 0.1,
        "pairs_per_epoch": 50_000,
        "balance": "entities",
        "batch_size": 256,
    }
    methods = [name for name in arguments.methods if name in ("lssl", "ae", "vae")]
    number = visits.times
    popularity = visits.columns["popularity"].to_numpy()
    years = release_years(visits)
    length = np.log(visits.columns["user_length"].to_numpy())
    design = np.column_stack([np.ones(len(visits)), popularity, years, length])
    rows = []
    for method in methods:  # one after the other: coordinates are kept of the first one only
        result = _study(arguments, f"ml1m-{method}", visits, settings, methods=[method])
        coordinate = result.coordinates["held_out_coordinate"].to_numpy()
        explained = design @ np.linalg.lstsq(design, coordinate, rcond=None)[0]
        rest = coordinate - explained
        rows.append(
            {
                "method": method,
                "ordered pairs": result.methods[0].order.ordered,
                "mean cos": result.methods[0].order.cosine,
                "Spearman with window": spearman(coordinate, number),
                "within users": _within(coordinate, number, visits),
                "with popularity": spearman(coordinate, popularity),
                "with year": spearman(coordinate, years),
                "R2 of all three": r_squared(coordinate, explained),
                "rest with window": spearman(rest, number),
                "rest within users": _within(rest, number, visits),
            }
        )
    return rows


def _within(values: Any, times: Any, visits: Visits) -> float:
    """Return the correlation of what is left of both when each user's mean is taken off."""
    counts = np.bincount(visits.entities)
    parts = [
        value - (np.bincount(visits.entities, weights=value) / counts)[visits.entities]
        for value in (np.asarray(values, np.float64), np.asarray(times, np.float64))
    ]
    return correlation(parts[0], parts[1])


def _study(
    arguments: argparse.Namespace,
    name: str,
    visits: Visits,
    settings: Mapping[str, Any],
    *,
    methods: Sequence[str] | None = None,
    **options: Any,
) -> Longitudinal:
    """Return the result in DIR/NAME, made where it is not there."""
    out = arguments.output / name
    if (out / MARKER).is_file():
        return load_longitudinal(out)
    return longitudinal(
        visits,
        out=out,
        methods=methods or arguments.methods,
        settings=settings,
        resume=True,
        **options,
    )


if __name__ == "__main__":
    sys.exit(main())
