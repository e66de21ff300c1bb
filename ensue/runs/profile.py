"""Profile a dataset: what a log holds before any model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.data.dataset import Dataset
from ensue.data.histories import Histories
from ensue.errors import DataError, UsageError
from ensue.evaluation.profile.counts import (
    count_repeats,
    describe_lengths,
    describe_popularity,
    describe_times,
)
from ensue.evaluation.profile.decay import Decay, fit_decay
from ensue.evaluation.profile.dependence import Curve, Dependence, measure_dependence
from ensue.evaluation.profile.embedding import svd_vectors, unit_rows
from ensue.evaluation.profile.intensity import Intensity, sequential_intensity
from ensue.evaluation.profile.shuffle import shuffle_histories
from ensue.models.baselines.bpr import BPR
from ensue.progress import track
from ensue.runs.run import Run


@dataclass(frozen=True)
class Profile:
    """What a log holds.

    dataset: name, path, hash, split, notes.
    counts: users, items, interactions, those of each part of the split, density, sparsity.
    time: first, last, days, tied; None where the log has no times.
    lengths, popularity, repeats: of `ensue.evaluation.profile.counts`.
    intensity, shuffled_intensity: of the histories, and of the same in a random order.
    dependence, decay: Dep_L over the lags, and how it falls.
    protocol: where the item vectors come from, how many users, resamples, the seed.
    """

    dataset: dict[str, Any]
    counts: dict[str, Any]
    time: dict[str, Any] | None
    lengths: dict[str, Any]
    popularity: dict[str, Any]
    repeats: dict[str, float]
    intensity: Intensity
    shuffled_intensity: Intensity
    dependence: Dependence
    decay: Decay
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the profile, ready for JSON."""
        return {
            "dataset": self.dataset,
            "counts": self.counts,
            "time": self.time,
            "lengths": self.lengths,
            "popularity": self.popularity,
            "repeats": self.repeats,
            "intensity": self.intensity.to_dict(),
            "shuffled_intensity": self.shuffled_intensity.to_dict(),
            "dependence": _dependence_to_dict(self.dependence) | {"decay": self.decay.to_dict()},
            "protocol": self.protocol,
        }


def profile(
    data: Dataset | str | Path,
    *,
    embedding: Run | str | Path | None = None,
    dim: int = 32,
    max_lag: int = 50,
    max_users: int = 100_000,
    num_resamples: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> Profile:
    """Return the profile of all interactions of a dataset.

    Args:
        embedding: a run of bpr on the same items, whose item vectors measure the dependence; None
            takes a truncated SVD of the log, of width `dim`.
        max_lag: the dependence is measured at lags 0..max_lag.
        max_users: the dependence is measured on at most so many users, drawn at random.
        num_resamples: bootstrap resamples of the users, for the intervals of the decay.

    Raises:
        DataError: the dataset cannot be read, or is empty.
        UsageError: an argument has no meaning, or the run is of another kind or of other items.
    """
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    _check(dataset, dim=dim, max_lag=max_lag, max_users=max_users, num_resamples=num_resamples)
    histories = dataset.histories("all")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
    for_order, for_users, for_resamples = streams
    with track("profile", total=4, unit="measures", enabled=progress) as advance:
        vectors, source = _item_vectors(dataset, histories, embedding, dim, seed)
        advance()
        shuffled = shuffle_histories(histories, for_order)
        intensity, by_chance = sequential_intensity(histories), sequential_intensity(shuffled)
        advance()
        users = np.flatnonzero(histories.lengths > 0)
        if len(users) > max_users:
            users = np.sort(for_users.choice(users, max_users, replace=False))
        found = measure_dependence(histories, shuffled, users, vectors, max_lag=max_lag)
        advance()
        decay = fit_decay(found, num_resamples=num_resamples, rng=for_resamples)
        advance()
    return Profile(
        **_describe(dataset, histories),
        intensity=intensity,
        shuffled_intensity=by_chance,
        dependence=found,
        decay=decay,
        protocol={
            "histories": "all interactions, whatever the split",
            "vectors": source,
            "dim": vectors.shape[1],
            "users": len(users),
            "num_resamples": num_resamples,
            "seed": seed,
        },
    )


def describe_dependence(profile: Profile) -> list[str]:
    """Return in sentences how the dependence falls with the lag, or why that cannot be said."""
    found, users = profile.decay, profile.dependence.num_users
    sentences = []
    if users[-1] < users[0]:
        sentences.append(
            f"Lag 0 is measured on {users[0]:,} users, lag {len(users) - 1} on the {users[-1]:,} "
            "whose histories are long enough: a change along the lags is in part one of users."
        )
    span = f"lags {found.lags[0]} to {found.lags[-1]}" if len(found.lags) else "no lag"
    if found.slope:
        value, (low, high) = found.slope
        sentences.append(
            f"The log-log slope of Dep_L itself, {span}, is {value:.3f} (95%: {low:.3f} to "
            f"{high:.3f}); lasting differences between users flatten it."
        )
    else:
        sentences.append(f"Dep_L itself has no log-log slope: {found.slope_reason}.")
    if not found.power:
        sentences.append(f"The memory has no exponent: {found.power_reason}.")
        return sentences
    low, high = found.power.interval
    sentences.append(
        f"Above the floor of permuted histories, Dep_L falls as L^-{found.power.parameter:.2f} "
        f"(95% of the exponent: {low:.2f} to {high:.2f}; this explains "
        f"{found.power.explained:.1%})."
    )
    other = found.exponential
    if other:
        lag = f"an exponential that falls to 1/e in {other.parameter:.1f} lags"
        sentences.append(
            {
                "power": f"A power describes it better than {lag} does ({other.explained:.1%}).",
                "exponential": f"But {lag} describes it better ({other.explained:.1%}): the memory "
                "is short, and the exponent is no law.",
                None: f"But {lag} describes it as well ({other.explained:.1%}): these lags cannot "
                "tell a power from an exponential.",
            }[found.preferred]
        )
    if high <= 1 and found.preferred == "power":
        sentences.append("A power with an exponent of at most 1 is long-range dependence.")
    return sentences


def _check(dataset: Dataset, **sizes: int) -> None:
    least = {"dim": 1, "max_lag": 1, "max_users": 2, "num_resamples": 10}
    for name, value in sizes.items():
        if value < least[name]:
            raise UsageError(f"profile needs {name} of {least[name]} or more; got {value}.")
    if dataset.num_interactions == 0:
        raise DataError(f"a profile needs at least one interaction; {dataset.path} has none.")


def _item_vectors(
    dataset: Dataset, histories: Histories, embedding: Run | str | Path | None, dim: int, seed: int
) -> tuple[NDArray[np.float32], str]:
    """Return unit vectors [I + 1, D] of the items, and where they come from."""
    if embedding is None:
        generator = torch.Generator().manual_seed(seed)
        vectors = svd_vectors(histories, dataset.num_items, dim=dim, generator=generator)
        return vectors, f"truncated SVD of the log, {vectors.shape[1]} factors, unit length"
    run = embedding if isinstance(embedding, Run) else Run(embedding)
    if run.info["model"] != "bpr":
        raise UsageError(
            "item vectors must come from a model that does not know the order of items, bpr; "
            f"{run.path} is a run of {run.info['model']}."
        )
    if not run.item_table["raw_id"].equals(dataset.items_table["raw_id"]):
        raise UsageError(
            f"item vectors must be of the items of the dataset; {run.path} was trained on "
            f"{len(run.item_table):,} items of {run.info['dataset']['name']}, {dataset.path} has "
            f"{dataset.num_items:,}. Train bpr on this dataset."
        )
    assert isinstance(run.model, BPR)
    vectors = run.model.item_embedding.detach().numpy().copy()
    vectors[0] = 0.0
    return unit_rows(vectors), f"bpr run {run.path}, {vectors.shape[1]} factors, unit length"


def _describe(dataset: Dataset, histories: Histories) -> dict[str, Any]:
    """Return all but what order says."""
    info = dataset.info
    num_cells = dataset.num_users * dataset.num_items
    has_time = info.time == "column"
    return {
        "dataset": {
            "name": info.name,
            "path": str(dataset.path),
            "hash": info.hash,
            "split": info.split,
            "filters": info.filters,
            "notes": info.notes,
        },
        "counts": {
            **info.counts,
            "density": dataset.num_interactions / num_cells,
            "sparsity": 1 - dataset.num_interactions / num_cells,
        },
        "time": describe_times(dataset.column("time"), dataset.column("user"))
        if has_time
        else None,
        "lengths": describe_lengths(histories.lengths[1:]),
        "popularity": describe_popularity(histories.item_counts(dataset.num_items)[1:]),
        "repeats": count_repeats(histories),
    }


def _dependence_to_dict(found: Dependence) -> dict[str, Any]:
    return {
        "lags": list(range(len(found.num_users))),
        "users": found.num_users.tolist(),
        "total": _curve_to_dict(found.total),
        "shuffled": _numbers(found.shuffled),
        "within": _curve_to_dict(found.within),
    }


def _curve_to_dict(curve: Curve) -> dict[str, Any]:
    return {
        "value": _numbers(curve.value),
        "floor": _numbers(curve.floor),
        "percentile_5": _numbers(curve.percentiles[0]),
        "percentile_95": _numbers(curve.percentiles[1]),
    }


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Return a list for JSON, which has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]
