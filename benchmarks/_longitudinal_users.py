"""What a direction of time in the histories of users means, once what the catalogue does is off.

Windows of a history are the visits. All users have the same films before them, and many rate them
in an order that the site's pages suggest; films come out, and old ones are rated by newcomers too.
So the place of a window in its user's history is compared with the held-out coordinate within users
(each user's mean taken off both), as it is and with what the films of the window are taken off
both: how popular, how old, since when in the log. Ranks are compared, and an interval is over users
drawn again. p is over signs: under "no order" a user's whole history could as well be reversed,
which keeps how alike neighboring windows are.

Within a user, days since the first rating and the date are the same up to a constant: no data can
tell them apart there. Between users who came at different dates it can, and `tenure` is that.

Shapes: N windows, E users, D width of the codes, P covariates, S items in all windows, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._longitudinal_data import release_years
from ensue.data.longitudinal.measurements import ItemBags
from ensue.data.longitudinal.visits import Pairs, Visits, entity_folds
from ensue.evaluation.intervals import resampled_means
from ensue.evaluation.longitudinal import average_ranks, measure_order
from ensue.evaluation.significance import sign_flip_p_values
from ensue.runs.longitudinal_fit import FitSettings, fit, reconstruction_error

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
FOLDS = 3
LEAST_DAYS = (2, 7, 30)
RESAMPLES, SIGNS = 1000, 9999
PLACES = "usual places"  # of the films: no method, but the order that all users share
PRIOR_COUNT = 5  # windows in the middle of a history that a film is taken to be in besides


@dataclass(frozen=True)
class Coded:
    """Codes of all windows [N, D] and the direction of time [D], by a model of the rows `train`.

    error: minus the mean log-likelihood of the items of held-out windows; None without a decoder.
    """

    codes: Floats
    direction: Floats
    train: Integers
    held: Integers
    error: float | None = None

    def coordinate(self) -> Floats:
        """Return the coordinate of the held-out windows, at mean 0 and deviation 1 in training."""
        along = self.codes @ self.direction
        return (along[self.held] - along[self.train].mean()) / along[self.train].std()


def measure_users(
    visits: Visits, plans: Mapping[str, FitSettings | None], dim: int, folder: Path
) -> list[dict[str, Any]]:
    """Return a row for each plan of a training, and one for the usual places of the films.

    A plan of None is that of `dim` principal components.
    Of logs with times there are further rows of each, of the users whose windows lie over so many
    days.
    """
    number = entity_folds(visits.num_entities, FOLDS, seed=0)
    parts = [
        (visits.of_entities(number != fold), visits.of_entities(number == fold))
        for fold in range(FOLDS)
    ]
    usual = np.empty(len(visits))
    for train, held in parts:
        usual[held] = usual_places(visits, train)[held]
    groups = {"all": np.ones(visits.num_entities, np.bool_)}
    if "calendar_time" in visits.columns:
        groups |= {f"{days} days and more": spans(visits) >= days for days in LEAST_DAYS}
    rows = []
    for method in [*plans, PLACES]:
        coded = []
        for fold, (train, held) in enumerate(parts):
            plan = plans.get(method)
            if method == PLACES:
                coded.append(Coded(usual_places(visits, train)[:, None], np.ones(1), train, held))
            elif plan is None:
                coded.append(_of_components(visits, train, held, dim))
            else:
                name = f"{method.replace(', ', '-')}-{fold}"
                coded.append(_trained(visits, plan, train, held, folder / name))
        coordinate = np.empty(len(visits))
        for part in coded:
            coordinate[part.held] = part.coordinate()
        for name, is_wanted in groups.items():
            count = int((np.bincount(visits.entities)[is_wanted] > 1).sum())
            row = {"method": method, "group": name, "users": count}
            errors = [part.error for part in coded if part.error is not None]
            row |= {"error": float(np.mean(errors)) if errors else None}
            row |= _orders(visits, coded, is_wanted)
            beside = None if method == PLACES else usual
            rows.append(row | _meaning(visits, coordinate, beside, is_wanted))
    return rows


def spans(visits: Visits) -> Floats:
    """Return the days between the first and the last window of each user [E]."""
    firsts = np.flatnonzero(np.diff(visits.entities, prepend=-1))
    return np.append(visits.times[firsts[1:] - 1], visits.times[-1]) - visits.times[firsts]


def places(visits: Visits) -> Floats:
    """Return where each window lies in its user's history [N], from -1/2 to 1/2, of mean 0."""
    counts = np.bincount(visits.entities)
    number = np.arange(len(visits)) - (np.cumsum(counts) - counts)[visits.entities]
    return (number + 0.5) / counts[visits.entities] - 0.5


def usual_places(visits: Visits, train: Integers) -> Floats:
    """Return the mean over the items of each window [N] of where they lie in the histories
    `train`; items that are in few of them are taken to be nearer to the middle.
    """
    bags, row_of = _bags(visits)
    is_train = np.isin(row_of, train)
    known = bags.items[is_train]
    size = len(bags.names) + 1
    counts = np.bincount(known, minlength=size)
    total = np.bincount(known, weights=places(visits)[row_of[is_train]], minlength=size)
    return _window_means(visits, total / (counts + PRIOR_COUNT))


def first_seen(visits: Visits) -> Floats:
    """Return the mean over the items of each window [N] of the time they first were in any."""
    bags, row_of = _bags(visits)
    firsts = np.full(len(bags.names) + 1, np.inf)
    np.minimum.at(firsts, bags.items, visits.times[row_of])
    return _window_means(visits, firsts)


def components(visits: Visits, train: Integers, dim: int) -> Floats:
    """Return the principal components [N, dim] of the windows, an item counting as the log of how
    rare it is in the windows `train`, which the components are of.
    """
    bags, row_of = _bags(visits)
    is_train = np.isin(row_of, train)
    size = len(bags.names)
    length = len(bags.items) // len(visits)
    items = (bags.items[is_train] - 1).reshape(-1, length)  # windows are of one length
    together = np.zeros(size * size)
    for place in range(length):
        pairs = items[:, place, None] * size + items
        together += np.bincount(pairs.ravel(), minlength=size * size)
    together = together.reshape(size, size) / len(items)
    share = np.bincount(items.ravel(), minlength=size) / len(items)
    rarity = -np.log(np.maximum(share, 1 / len(items)))
    covariance = (together - np.outer(share, share)) * np.outer(rarity, rarity)
    vectors = np.linalg.eigh(covariance)[1][:, -dim:] * rarity[:, None]
    return np.add.reduceat(vectors[bags.items - 1], bags.offsets[:-1], axis=0)


def left_of(
    values: Floats, times: Floats, covariates: Floats, entities: Integers, *, within: bool
) -> tuple[float, tuple[float, float], float, float]:
    """Return the correlation of values and times [N] behind the covariates [N, P], its interval
    over users, its p over signs, and what share of the values the covariates explain.

    Ranks are compared, the covariates' with their squares; with `within` each user's mean is off.
    """
    ranks = [average_ranks(c) / len(c) - 0.5 for c in (values, times, *covariates.T)]
    columns = np.column_stack([*ranks, *(rank**2 for rank in ranks[2:])])
    if within:
        counts = np.bincount(entities)
        sums = np.column_stack([np.bincount(entities, weights=c) for c in columns.T])
        columns = columns - (sums / np.maximum(counts, 1)[:, None])[entities]
    else:
        columns = columns - columns.mean(axis=0)
    known, others = columns[:, :2], columns[:, 2:]
    rest = known - others @ np.linalg.lstsq(others, known, rcond=None)[0]
    products = (rest[:, 0] * rest[:, 1], rest[:, 0] ** 2, rest[:, 1] ** 2)
    _, number = np.unique(entities, return_inverse=True)
    of_users = np.column_stack([np.bincount(number, weights=p) for p in products]).astype(
        np.float64
    )
    both, one, other = of_users.mean(axis=0)
    drawn = resampled_means(of_users, RESAMPLES, np.random.default_rng(0)).T
    low, high = np.quantile(drawn[0] / np.sqrt(drawn[1] * drawn[2]), [0.025, 0.975]).tolist()
    p_value = sign_flip_p_values(of_users[:, :1], SIGNS, np.random.default_rng(0))
    explained = 1 - float(np.square(rest[:, 0]).sum() / np.square(known[:, 0]).sum())
    return float(both / np.sqrt(one * other)), (low, high), float(p_value[0]), explained


def _meaning(
    visits: Visits, coordinate: Floats, usual: Floats | None, is_wanted: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return how the coordinate goes with the place in the history, and what is left of that."""
    rows = visits.of_entities(is_wanted)
    has_time = "calendar_time" in visits.columns
    films = [visits.columns["popularity"].to_numpy(), release_years(visits)]
    if has_time:
        films.append(first_seen(visits))
    catalogue = np.column_stack(films)
    designs: dict[str, Floats | None] = {
        "place": catalogue[:, :0],
        "left": catalogue,
        "left behind places": None if usual is None else np.column_stack([catalogue, usual]),
    }
    place, entities = places(visits)[rows], visits.entities[rows]
    found: dict[str, Any] = {}
    for name, design in designs.items():
        if design is None:  # a coordinate that is the usual places themselves
            found |= dict.fromkeys((name, f"{name}, 95%", f"{name}, p"))
            continue
        value, interval, p_value, explained = left_of(
            coordinate[rows], place, design[rows], entities, within=True
        )
        if name == "left":
            found["R2 of films"] = explained
        found |= {name: value, f"{name}, 95%": _show(interval), f"{name}, p": p_value}
    if has_time:
        dates = visits.columns["calendar_time"].to_numpy()
        firsts = np.flatnonzero(np.diff(visits.entities, prepend=-1))
        tenure = visits.times - visits.times[firsts][visits.entities]
        design = np.column_stack([catalogue, dates, visits.columns["user_length"].to_numpy()])
        for name, covariates in (("tenure", design[:, :0]), ("tenure left", design)):
            value, interval, _, _ = left_of(
                coordinate[rows],
                tenure[rows],
                covariates[rows],
                visits.entities[rows],
                within=False,
            )
            found |= {name: value, f"{name}, 95%": _show(interval)}
    return found


def _orders(
    visits: Visits, coded: Sequence[Coded], is_wanted: NDArray[np.bool_]
) -> dict[str, float]:
    """Return the share of held-out pairs in order, of all and by the days between, and the cosine
    of all.
    """
    gaps: dict[str, tuple[float, float]] = {"": (-np.inf, np.inf)}
    if "calendar_time" in visits.columns:
        gaps |= {", within a day": (-np.inf, 1.0), ", 7 days and more": (7.0, np.inf)}
    found: dict[str, float] = {}
    for name, (low, high) in gaps.items():
        orders, weights = [], []
        for part in coded:
            rows = np.intersect1d(part.held, visits.of_entities(is_wanted))
            pairs = Pairs(visits, rows=rows).all()
            gap = visits.times[pairs[:, 1]] - visits.times[pairs[:, 0]]
            pairs = pairs[(gap >= low) & (gap < high)]
            orders.append(measure_order(part.codes, part.direction, pairs))
            weights.append(len(pairs))
        found[f"in order{name}"] = float(np.average([o.ordered for o in orders], weights=weights))
        if not name:
            found["mean cos"] = float(np.average([o.cosine for o in orders], weights=weights))
    return found


def _of_components(visits: Visits, train: Integers, held: Integers, dim: int) -> Coded:
    """Return principal components, and the mean direction of their differences."""
    codes = components(visits, train, dim)
    pairs = Pairs(visits, rows=train).all()
    differences = codes[pairs[:, 1]] - codes[pairs[:, 0]]
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    mean = (differences / np.maximum(lengths, 1e-12)).mean(axis=0)
    return Coded(codes, mean / np.linalg.norm(mean), train, held)


def _trained(
    visits: Visits, plan: FitSettings, train: Integers, held: Integers, folder: Path
) -> Coded:
    """Return the codes and the direction of a training, which is kept in `folder`."""
    fitted = fit(visits, train, plan, directory=folder, resume=True)
    codes = fitted.codes(visits.measured).double().numpy()
    direction = fitted.model.directions[0].double().numpy()
    error = reconstruction_error(
        fitted.model, fitted.rows(visits.measured), torch.from_numpy(codes).float(), held
    )
    return Coded(codes, direction, train, held, error)


def _bags(visits: Visits) -> tuple[ItemBags, Integers]:
    """Return the windows, and the row that each of their items is in [S]."""
    bags = visits.measured
    assert isinstance(bags, ItemBags)
    return bags, np.repeat(np.arange(len(visits)), np.diff(bags.offsets))


def _window_means(visits: Visits, of_items: Floats) -> Floats:
    """Return the mean over each window [N] of what is known of items [I + 1]."""
    bags, _ = _bags(visits)
    return np.add.reduceat(of_items[bags.items], bags.offsets[:-1]) / np.diff(bags.offsets)


def _show(interval: tuple[float, float]) -> str:
    return "{:.3f} to {:.3f}".format(*interval)
