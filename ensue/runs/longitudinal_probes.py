"""Predict a column of the visits from codes, on entities that nothing was trained on.

Shapes: N visits, n of them, D width of the codes, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from ensue.data.longitudinal.visits import Visits
from ensue.errors import DataError
from ensue.evaluation.longitudinal import ridge
from ensue.evaluation.probes import balancing_weights, class_metrics, logistic, number_metrics
from ensue.models.representation.lssl import LSSL
from ensue.runs.longitudinal_fit import FitSettings, Fitted, build_model
from ensue.runs.longitudinal_measure import Floats, Fold, Integers
from ensue.runs.longitudinal_result import Probe
from ensue.training.checkpoints import load_tensors, save_tensors
from ensue.training.loop import TrainingLoop
from ensue.training.probes import ProbeNetwork, ProbeObjective

MAX_CLASSES = 20


@dataclass(frozen=True)
class _Target:
    """What is to be predicted: classes 0..C - 1 of the visits `known`, or numbers (C = 0)."""

    known: Integers
    values: Floats
    num_classes: int


# (fold, rows to train on, rows to predict) -> probabilities [n, C], or numbers [n]
_Predict = Callable[[Fold, Integers, Integers], Floats]


def measure_probes(
    visits: Visits,
    folds: Sequence[Fold],
    column: str,
    plan: FitSettings,
    directory: Path,
    *,
    fine_tune: bool,
) -> list[Probe]:
    """Return how well a column is predicted: from frozen codes, from the time coordinate alone, and
    by encoders that are trained to, from those of the method and from new ones.

    Args:
        directory: where the trainings of encoders go on.

    Raises:
        DataError: the column has one value, or too many categories.
    """
    target = _target_of(visits.columns[column])

    def from_codes(fold: Fold, train: Integers, held: Integers) -> Floats:
        return _predict(target, fold.codes[train], train, fold.codes[held])

    def from_coordinate(fold: Fold, train: Integers, held: Integers) -> Floats:
        along = fold.codes @ fold.fitted.model.directions[:1].double().cpu().numpy().T
        return _predict(target, along[train], train, along[held])

    def tuned(is_new: bool) -> _Predict:
        def predict(fold: Fold, train: Integers, held: Integers) -> Floats:
            name = f"fold-{folds.index(fold) + 1}"
            folder = directory / name / "probes" / column / ("new" if is_new else "tuned")
            with torch.random.fork_rng():
                torch.manual_seed(plan.training.seed)
                parts = (train, held)
                return _tune(visits, target, fold.fitted, plan, parts, folder, is_new=is_new)

        return predict

    heads: dict[str, _Predict] = {"codes": from_codes, "time coordinate": from_coordinate}
    if fine_tune:
        heads |= {"fine-tuned": tuned(False), "from new": tuned(True)}
    return [
        Probe(column, head, _measure(target, folds, predict)) for head, predict in heads.items()
    ]


def _target_of(column: pl.Series) -> _Target:
    """Return text, whole numbers of two values and truth values as classes, the rest as numbers."""
    known = np.flatnonzero(column.is_not_null().to_numpy())
    kept = column.gather(known)
    num_values = kept.n_unique()
    if num_values < 2:
        raise DataError(f"column {column.name!r} must have two values or more to be predicted.")
    if kept.dtype.is_numeric() and num_values > 2:
        return _Target(known, kept.cast(pl.Float64).to_numpy(), 0)
    if num_values > MAX_CLASSES:
        raise DataError(
            f"column {column.name!r} must have at most {MAX_CLASSES} categories; it has "
            f"{num_values:,}."
        )
    codes = kept.cast(pl.String).rank("dense").cast(pl.Float64).to_numpy() - 1
    return _Target(known, codes, num_values)


def _measure(target: _Target, folds: Sequence[Fold], predict: _Predict) -> dict[str, float | None]:
    """Return the metrics of what is predicted for held-out visits, all folds together."""
    found, rows = [], []
    for fold in folds:
        train, held = (np.intersect1d(part, target.known) for part in (fold.train, fold.held))
        found.append(predict(fold, train, held))
        rows.append(held)
    truth = target.values[np.searchsorted(target.known, np.concatenate(rows))]
    predicted = np.concatenate(found)
    if target.num_classes:
        return class_metrics(truth.astype(np.int64), predicted)
    return number_metrics(truth, predicted)


def _predict(target: _Target, x: Floats, train: Integers, new: Floats) -> Floats:
    """Return what a linear model of the codes x of `train` says of new ones."""
    values = target.values[np.searchsorted(target.known, train)]
    if target.num_classes:
        return logistic(x, values.astype(np.int64), new, num_classes=target.num_classes)
    return ridge(x, values, new)


def _tune(
    visits: Visits,
    target: _Target,
    fitted: Fitted,
    plan: FitSettings,
    rows: tuple[Integers, Integers],
    folder: Path,
    *,
    is_new: bool,
) -> Floats:
    """Train an encoder and its head on the first rows; return what they say of the second."""
    train, held = rows
    done = folder / "predicted.safetensors"
    if done.is_file():
        tensors, _ = load_tensors(done)
        return tensors["predicted"].numpy()
    model: LSSL = copy.deepcopy(fitted.model)
    if is_new:
        model = build_model(model.config, model.measured).to(model.directions.device)
    network = ProbeNetwork(model, max(target.num_classes, 1)).to(model.directions.device)
    values = target.values[np.searchsorted(target.known, train)]
    center, spread, weights = 0.0, 1.0, None
    if target.num_classes:
        balanced = balancing_weights(values.astype(np.int64), target.num_classes)
        weights = torch.from_numpy(balanced).float()
    else:
        center, spread = float(values.mean()), float(values.std()) or 1.0
        values = (values - center) / spread
    ready = fitted.rows(visits.measured)
    objective = ProbeObjective(
        ready,
        train,
        values.astype(np.int64 if target.num_classes else np.float32),
        class_weights=weights,
        batch_size=plan.training.batch_size,
        seed=plan.training.seed,
    )
    TrainingLoop(network, objective, plan.training, directory=folder).run(resume=True)
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(held).to(model.directions.device), 1024)
        found = torch.cat([network(ready.take(part)).cpu() for part in parts]).double()
    predicted = torch.softmax(found, 1) if target.num_classes else found[:, 0] * spread + center
    save_tensors(done, {"predicted": predicted}, {})
    return predicted.numpy()
