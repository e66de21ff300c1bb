"""What an audit is to find out: whose models, on which data, against which attacks and defences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.audit.bands import BANDS, choose_targets, named_targets
from ensue.audit.base import Attack
from ensue.audit.clicks import Clicks
from ensue.audit.defences import Defence, parse_share
from ensue.audit.poison import Order
from ensue.data.dataset import Dataset, Part
from ensue.errors import DataError, UsageError
from ensue.runs.run import Run, load


@dataclass(frozen=True)
class Victim:
    """A model that is attacked. name: as it is shown. folder: of its results."""

    name: str
    folder: str
    run: Run

    def settings(self, seed: int) -> dict[str, Any]:
        """Return the run's own settings; its training begins at its own seed plus `seed`."""
        config, training = self.run.info["config"], self.run.info["training"]
        if training is None:
            return dict(config)
        # A name that both have is the model's, as in ensue train.
        return {**training, "seed": training["seed"] + seed, **config}

    def is_clean_for(self, seed: int) -> bool:
        """Whether the given run is what a training on the clean data with `seed` would give."""
        return seed == 0 or self.run.info["training"] is None


@dataclass(frozen=True)
class Targets:
    """Items to promote: of a band, other ones for each seed, or those that are named."""

    name: str
    band: str | None
    raw_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """A number of fake users, as it was asked for and as it comes to."""

    name: str
    num_fakes: int


@dataclass(frozen=True)
class Case:
    """An attack on targets with a budget, from one seed."""

    attack: str
    targets: Targets
    budget: Budget
    seed: int

    @property
    def folder(self) -> Path:
        """Where its results are, below a folder of their kind."""
        fakes = str(self.budget.num_fakes)
        return Path(self.attack) / self.targets.name / fakes / str(self.seed)


@dataclass(frozen=True)
class Plan:
    """All of it.

    part: what is training data, the same for all victims. k: of the hit rate.
    """

    dataset: Dataset
    part: Part
    victims: tuple[Victim, ...]
    attacks: Mapping[str, Attack]
    attack_settings: Mapping[str, Any]
    targets: tuple[Targets, ...]
    num_targets: int
    budgets: tuple[Budget, ...]
    defences: tuple[Defence, ...]
    seeds: tuple[int, ...]
    order: Order
    k: int

    @cached_property
    def clicks(self) -> Clicks:
        """What real users clicked in the training data."""
        return Clicks.from_histories(self.dataset.histories(self.part), self.dataset.num_items)

    @cached_property
    def columns(self) -> dict[tuple[str, int], NDArray[np.int64]]:
        """The columns of the targets of a name and a seed.

        Raises:
            UsageError: a band has too few items, or an id is unknown.
        """
        counts = self.clicks.counts()
        return {
            (targets.name, seed): named_targets(self.dataset.item_ids, targets.raw_ids)
            if targets.band is None
            else choose_targets(counts, targets.band, self.num_targets, seed=seed)
            for targets in self.targets
            for seed in self.seeds
        }

    def check(self) -> None:
        """Refuse what would fail only after hours.

        Raises:
            UsageError: something is missing or there twice, or targets cannot be chosen.
        """
        asked: dict[str, Sequence[Any]] = {
            "budget": [one.num_fakes for one in self.budgets],
            "attack": list(self.attacks),
            "seed": self.seeds,
            "targets": [one.name for one in self.targets],
        }
        for name, values in asked.items():
            if not values:
                raise UsageError(f"an audit needs a value of {name}; got none.")
        asked["defence"] = [one.name for one in self.defences]
        for name, values in asked.items():
            if len(set(values)) < len(values):
                raise UsageError(f"an audit needs each {name} once; got {list(values)}.")
        if min(self.seeds) < 0:
            raise UsageError(f"seeds must be 0 or more; got {list(self.seeds)}.")
        self.columns  # noqa: B018  # chosen here, so that what cannot be is said at once

    def describe_targets(self) -> dict[str, list[list[dict[str, Any]]]]:
        """Return for each name and seed the targets: raw id, title where known, and clicks."""
        counts, ids = self.clicks.counts(), self.dataset.item_ids
        table = self.dataset.items_table
        titles = table["title"] if "title" in table.columns else None

        def describe(column: int) -> dict[str, Any]:
            known = {} if titles is None else {"title": titles[column]}
            return {"item": ids.to_raw([column + 1])[0], **known, "clicks": int(counts[column])}

        return {
            one.name: [
                [describe(column) for column in self.columns[one.name, seed].tolist()]
                for seed in self.seeds
            ]
            for one in self.targets
        }

    def cases(self) -> Iterator[Case]:
        """Yield every case."""
        for seed in self.seeds:
            for targets in self.targets:
                for budget in self.budgets:
                    for attack in self.attacks:
                        yield Case(attack, targets, budget, seed)

    @property
    def num_units(self) -> int:
        """How many attacks and measured models there are."""
        num_cases = sum(1 for _ in self.cases())
        of_data = len(self.victims) * (1 + len(self.defences))
        return num_cases * (1 + of_data) + len(self.seeds) * of_data

    def identity(self) -> dict[str, Any]:
        """Return what the audit is, as JSON holds it."""
        info = self.dataset.info
        return {
            "dataset": {"name": info.name, "hash": info.hash, "counts": info.counts},
            "trained_on": self.part,
            "victims": {
                victim.name: {"model": victim.run.info["model"], "weights": victim.run.weights_hash}
                for victim in self.victims
            },
            "attacks": list(self.attacks),
            "attack_settings": dict(self.attack_settings),
            "targets": {one.name: list(one.raw_ids) for one in self.targets},
            "num_targets": self.num_targets,
            "budgets": {one.name: one.num_fakes for one in self.budgets},
            "defences": [one.name for one in self.defences],
            "seeds": list(self.seeds),
            "order": self.order,
            "k": self.k,
        }


def open_victims(
    runs: Sequence[Run | str | Path], data: Dataset | str | Path | None
) -> tuple[tuple[Victim, ...], Dataset, Part]:
    """Return the models, and the dataset and part that all were trained on.

    Raises:
        UsageError: there is none, they were trained on different data, or one cannot be trained
            again as it was.
        DataError: the dataset has no test part.
    """
    if not runs:
        raise UsageError("an audit needs a run; got none.")
    opened = [run if isinstance(run, Run) else load(run) for run in runs]
    names = [run.path.name for run in opened]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in opened]
    dataset = opened[0].open_dataset(data)
    for run in opened:
        run.check_dataset(dataset.path, dataset.info.hash)
        if "distillation" in run.info:
            raise UsageError(
                f"an audit trains a run again, as ensue train does; {run.path} is distilled. "
                "Audit a run of ensue train."
            )
        if run.info["fit"] != opened[0].info["fit"]:
            raise UsageError(
                "the runs of an audit are trained on the same parts; "
                f"{opened[0].path} is on {opened[0].info['fit']}, {run.path} on {run.info['fit']}."
            )
    if not dataset.info.counts["test"]:
        raise DataError(
            f"an audit needs a test part, to measure accuracy on; {dataset.path} has none. "
            "Prepare the dataset with a split that has one."
        )
    part: Part = opened[0].info["fit"]
    victims = tuple(
        Victim(name, f"{number}-{run.path.name}", run)
        for number, (name, run) in enumerate(zip(names, opened, strict=True), start=1)
    )
    return victims, dataset, part


def parse_targets(given: Sequence[str | Sequence[str | int]]) -> tuple[Targets, ...]:
    """Return targets: each is a band, or raw ids, in a list or joined by commas."""
    found: list[Targets] = []
    num_named = 0
    for one in given:
        if isinstance(one, str) and one in BANDS:
            found.append(Targets(one, one))
            continue
        num_named += 1
        ids = one.split(",") if isinstance(one, str) else one
        name = "items" if num_named == 1 else f"items-{num_named}"
        found.append(Targets(name, None, tuple(str(raw).strip() for raw in ids)))
    return tuple(found)


def parse_budget(given: str | int, num_users: int) -> Budget:
    """Return a budget: a number of fake users, or a percentage of the real ones, rounded down.

    >>> parse_budget("1%", 250)
    Budget(name='1%', num_fakes=2)

    Raises:
        UsageError: it is none, or comes to no user, or to more than there are real ones.
    """
    text = str(given).strip()
    if text.endswith("%"):
        share = 1.0 if text == "100%" else parse_share(text)
        number = None if share is None else int(share * num_users + 1e-9)
    else:
        number = int(text) if text.isdecimal() else None
    if number is None:
        raise UsageError(
            "a budget must be a percentage of the users, as in 1%, or a number of fake users, as "
            f"in 131; got {text!r}."
        )
    if not 1 <= number <= num_users:
        raise UsageError(
            f"a budget must come to 1 fake user or more, and to no more than the {num_users:,} "
            f"real ones; {text} comes to {number:,}."
        )
    return Budget(text, number)
