"""A direction of time where the answer is known, in patients, in engines, and in users.

    python -m benchmarks.longitudinal [synthetic] [oasis2] [cmapss] [ml1m] [ml100k]
        [--data DIR] [-o DIR]

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
cmapss_weights: the weight of the direction, tried on engines that a fold trains on alone.
    Bar: |Spearman| with remaining life of held-out engines .8 and more, above the autoencoder's.
ml1m, ml100k: windows of 20 ratings, three folds of users; how the coordinate goes with the place in
the user's history, and what is left behind the films; see benchmarks/_longitudinal_users.py. Only
the second log has times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks._longitudinal_data import (
    SENSORS,
    cmapss,
    ml1m,
    ml100k,
    oasis2,
    planted_visits,
)
from benchmarks._longitudinal_users import measure_users
from benchmarks._report import to_table, write_report
from benchmarks._retrieval_data import SHARED
from ensue.data.dataset import Dataset
from ensue.data.longitudinal.history_windows import history_windows
from ensue.data.longitudinal.measurements import Numbers
from ensue.data.longitudinal.tables import read_visits
from ensue.data.longitudinal.visits import Visits, entity_folds
from ensue.evaluation.longitudinal import correlation, r_squared, ridge, spearman
from ensue.runs.longitudinal import longitudinal
from ensue.runs.longitudinal_fit import FitSettings, fit
from ensue.runs.longitudinal_measure import (
    Fold,
    held_out_coordinate,
    measure_error,
    measure_orders,
)
from ensue.runs.longitudinal_result import MARKER, Longitudinal, load_longitudinal
from ensue.runs.longitudinal_settings import settings_of

NUM_TRAIN = 400
BARS = (0.7, 0.94)  # of the planted factor: cosine, Spearman
# Of an engine's cycles left: as they are, at most 125 as remaining life is usually counted, and the
# last 125 alone.
CYCLES = 125
LEFT, CLIPPED, LAST = "cycles left", "at most 125 left", "last 125"
OASIS_FEATURES = ["nWBV", "eTIV", "ASF", "MMSE"]
METHODS = ("lssl", "ae", "vae", "beta-vae", "simclr", "pca")


def main() -> int:
    """Run what is asked for, print tables, and write the report of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", help="synthetic, oasis2, cmapss, ml1m, ml100k; default: all"
    )
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("-o", "--output", type=Path, default=Path("longitudinal-benchmark"))
    parser.add_argument("--seeds", type=int, default=4, help="of the synthetic table")
    parser.add_argument("--worlds", type=int, nargs="+", default=[17])
    parser.add_argument("--gains", type=float, nargs="+", default=[1, 2])
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0, 0.1, 1, 5])
    parser.add_argument("--epochs", type=int, default=60, help="of the first two parts")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--engines-epochs", type=int, default=8)
    parser.add_argument("--engines-weight", type=float, default=1)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 1, 5], help="tried")
    parser.add_argument("--spans", type=int, nargs="+", default=[1, 10], help="cycles of an engine")
    parser.add_argument("--users-epochs", type=int, default=4)
    parser.add_argument("--users-weights", type=float, nargs="+", default=[0.1, 1])
    arguments = parser.parse_args()
    parts = {
        "synthetic": synthetic,
        "oasis2": patients,
        "cmapss_weights": engine_weights,
        "cmapss": engines,
        "ml1m": users,
        "ml100k": dated_users,
    }
    for name in arguments.parts or parts:
        rows = parts[name](arguments)
        print(to_table(rows), flush=True)
        chosen = {name: v for name, v in vars(arguments).items() if name not in ("data", "output")}
        config = {**chosen, "threads": torch.get_num_threads()}
        several = "_worlds" if name == "synthetic" and len(arguments.worlds) > 1 else ""
        print(write_report(f"longitudinal_{name}{several}", config, rows), flush=True)
    return 0


def synthetic(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each gain and weight, the autoencoder's for weight 0: means over seeds and
    worlds, and how the means of worlds spread.
    """
    rows = []
    for gain in arguments.gains:
        for weight in arguments.lambdas:
            worlds = [_of_world(arguments, world, gain, weight) for world in arguments.worlds]
            row = {"gain": gain, "lambda": weight, "worlds": len(worlds)}
            row |= {name: float(np.mean([of[name] for of in worlds])) for name in worlds[0]}
            for name in ("mean cos", "Spearman"):
                of_worlds = [of[name] for of in worlds]
                row[f"{name}, range"] = f"{min(of_worlds):.3f} to {max(of_worlds):.3f}"
            row["at the bars"] = sum(
                of["mean cos"] >= BARS[0] and of["Spearman"] >= BARS[1] for of in worlds
            )
            rows.append(row)
            print(to_table(rows[-1:]), flush=True)
    return rows


def _of_world(
    arguments: argparse.Namespace, world: int, gain: float, weight: float
) -> dict[str, float]:
    found = [_planted(arguments, world, seed, gain, weight) for seed in range(arguments.seeds)]
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


def _planted(
    arguments: argparse.Namespace, world: int, seed: int, gain: float, weight: float
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


def engine_weights(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each fold of engines and weight, measured on a fifth of the engines that the
    fold trains on: those that it holds out have no part in the choice.
    """
    rows = []
    visits = _engine_visits(arguments, arguments.spans[0])
    number = entity_folds(visits.num_entities, 5, seed=0)
    left = visits.columns[LEFT].to_numpy()
    for fold in range(5):
        trained = np.flatnonzero(number != fold)
        is_aside = entity_folds(len(trained), 5, seed=fold) == 0
        train, aside = (
            visits.of_entities(np.isin(np.arange(len(number)), trained[chosen]))
            for chosen in (~is_aside, is_aside)
        )
        for weight in arguments.weights:
            settings = {**_engine_settings(arguments), "weight": weight}
            plan = settings_of(["lssl"], settings, visits.measured)["lssl"]
            name = f"cmapss-weights-{arguments.spans[0]}/{fold}-{weight}-{arguments.engines_epochs}"
            fitted = fit(visits, train, plan, directory=arguments.output / name, resume=True)
            codes = fitted.codes(visits.measured).double().numpy()
            part = Fold(fitted, codes, train, aside)
            order = measure_orders(visits, [part], plan.pairs.min_gap)
            coordinate = held_out_coordinate([part], len(visits))[aside]
            rows.append(
                {
                    "fold": fold + 1,
                    "lambda": weight,
                    "ordered pairs": order.ordered,
                    "mean cos": order.cosine,
                    "Spearman with cycles left": spearman(coordinate, left[aside]),
                }
            )
            print(to_table(rows[-1:]), flush=True)
    return rows


def engines(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each method on C-MAPSS, of single cycles and of means of some, and one of a
    ridge regression that is told the cycles left: what a line through the sensors can do at all.
    """
    return [row for span in arguments.spans for row in _engines(arguments, span)]


def _engines(arguments: argparse.Namespace, span: int) -> list[dict[str, Any]]:
    visits = _engine_visits(arguments, span)
    settings = _engine_settings(arguments)
    found = _study(arguments, f"cmapss-{span}", visits, settings, against=[LEFT, CLIPPED, LAST])
    rows = []
    for method in found.methods:
        left = method.agreements[LEFT]
        rows.append(
            {
                "cycles": span,
                "method": method.method,
                "ordered pairs": method.order.ordered,
                "mean cos": method.order.cosine,
                "Spearman with cycles left": left.spearman,
                "95%": "{:.3f} to {:.3f}".format(*(left.interval or (0, 0))),
                "at most 125": method.agreements[CLIPPED].spearman,
                "of the last 125": method.agreements[LAST].spearman,
                "R2": left.r2,
                "R2 of all codes": left.r2_codes,
                "error": method.error,
            }
        )
    told = {"cycles": span, "method": "ridge, told the cycles left", **_told(visits)}
    return [*rows, {name: told.get(name) for name in rows[0]}]


def _told(visits: Visits) -> dict[str, float]:
    """Return figures of a ridge regression of the cycles left on the sensors, with the folds of the
    methods.
    """
    assert isinstance(visits.measured, Numbers)
    x, found = visits.measured.values.astype(np.float64), np.empty(len(visits))
    left = visits.columns[LEFT].to_numpy()
    number = entity_folds(visits.num_entities, 5, seed=0)
    for fold in range(5):
        train, held = visits.of_entities(number != fold), visits.of_entities(number == fold)
        found[held] = ridge(x[train], left[train], x[held])
    is_last = left <= CYCLES
    return {
        "Spearman with cycles left": spearman(found, left),
        "at most 125": spearman(found, np.minimum(left, CYCLES)),
        "of the last 125": spearman(found[is_last], left[is_last]),
        "R2": r_squared(left, found),
    }


def _engine_visits(arguments: argparse.Namespace, span: int) -> Visits:
    left = pl.col(LEFT)
    frame = cmapss(arguments.data, span).with_columns(
        left.clip(upper_bound=CYCLES).alias(CLIPPED),
        pl.when(left <= CYCLES).then(left).alias(LAST),
    )
    others = [LEFT, CLIPPED, LAST]
    return read_visits(frame, entity="engine", time="cycle", features=SENSORS, others=others)


def _engine_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "dim": 8,
        "hidden": [64, 64],
        "epochs": arguments.engines_epochs,
        "weight": arguments.engines_weight,
        "min_gap": 20,
        "pairs_per_epoch": 20_000,
        "batch_size": 256,
    }


def users(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each method on the users of ML-1M."""
    dataset = ml1m(arguments.data, arguments.output / "ml1m-data")
    return _users(arguments, "ml1m", dataset)


def dated_users(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows for each method on the users of ML-100K, whose ratings have times."""
    dataset = ml100k(arguments.data, arguments.output / "ml100k-data")
    return _users(arguments, "ml100k", dataset)


def _users(arguments: argparse.Namespace, name: str, dataset: Dataset) -> list[dict[str, Any]]:
    visits = history_windows(dataset, length=20)
    settings = {
        "dim": 16,
        "hidden": [64],
        "epochs": arguments.users_epochs,
        "pairs_per_epoch": 20_000,
        "balance": "entities",
        "batch_size": 256,
        "learning_rate": 0.003,
    }
    plans: dict[str, FitSettings | None] = {}
    for method in arguments.methods:
        if method == "lssl":
            for weight in arguments.users_weights:
                chosen = settings_of([method], {**settings, "weight": weight}, visits.measured)
                plans[f"lssl, {weight:g}"] = chosen[method]
        elif method in ("ae", "vae"):
            plans[method] = settings_of([method], settings, visits.measured)[method]
        elif method == "pca":
            plans[method] = None
    return measure_users(visits, plans, 16, arguments.output / name)


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
