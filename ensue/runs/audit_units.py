"""The pieces of an audit: an attack, and a model that is trained and measured.

A piece is stored when it is done, its JSON last, and is not repeated where it is stored. A training
that was interrupted goes on from its checkpoint, in the folder `work`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.audit.base import AttackStep
from ensue.audit.clicks import Clicks
from ensue.audit.defences import Defence, kept_rows
from ensue.audit.detectors import detectability, suspicions
from ensue.audit.poison import date_fakes, write_poisoned, write_rows
from ensue.audit.target_metrics import hits, target_metrics, target_ranks
from ensue.data.dataset import Dataset
from ensue.evaluation.evaluator import evaluate
from ensue.files import atomic_file, write_json
from ensue.models.base import Model
from ensue.runs.audit_plan import Case, Plan, Victim
from ensue.runs.audit_result import Found, Outcome
from ensue.runs.run import Run
from ensue.runs.train import train_with

QUANTILES = (0.1, 0.5, 0.9)
SHOWN_K = 10  # accuracy is measured here beside the plan's k
TRAINED = {"train": 1, "train+validation": 2}  # splits below it are training data
NO_DEFENCE = "none"

Hits = NDArray[np.bool_]


class TrainingData:
    """The data of a seed, as they are and as a defence leaves them; made when they are needed.

    folder: of what is measured, below that of a model. work: of the data. targets: columns by name.
    """

    case: Case | None = None

    def __init__(self, plan: Plan, seed: int, out: Path) -> None:
        self.plan, self.seed = plan, seed
        self.kind, self.folder = "clean", Path(str(seed))
        self.work = out / "work" / self.kind / self.folder
        self.targets = {one.name: plan.columns[one.name, seed] for one in plan.targets}

    @cached_property
    def dataset(self) -> Dataset:
        """The data as they are."""
        return self.plan.dataset

    @cached_property
    def clicks(self) -> Clicks:
        """Training clicks of all users, real ones first."""
        return self.plan.clicks

    @cached_property
    def suspicions(self) -> dict[str, NDArray[np.float64]]:
        """What each detector says of each user."""
        return suspicions(self.clicks, seed=self.seed)

    @cached_property
    def is_trained_on(self) -> NDArray[np.bool_]:
        """Which rows of the dataset are training data."""
        return self.dataset.column("split") < TRAINED[self.plan.part]

    def defended(self, defence: Defence) -> tuple[Dataset, dict[str, float]]:
        """Return what a defence leaves of the data, and the shares of clicks that it leaves out."""
        keep = kept_rows(defence, self.dataset, self.is_trained_on, self.suspicions, seed=self.seed)
        is_fake = self.dataset.column("user") > self.plan.dataset.num_users
        shares = {
            name: float(1 - keep[of & self.is_trained_on].mean())
            for name, of in (("fake", is_fake), ("real", ~is_fake))
            if (of & self.is_trained_on).any()
        }
        folder = self.work / _folder_name(defence.name) / "data"
        if (folder / "dataset.json").is_file():
            return Dataset(folder), shares
        return write_rows(self.dataset, folder, keep), shares

    def close(self) -> None:
        """Give up the data."""
        shutil.rmtree(self.work, ignore_errors=True)


class Poisoned(TrainingData):
    """The data with the fake users of a case."""

    case: Case

    def __init__(self, plan: Plan, case: Case, out: Path) -> None:
        super().__init__(plan, case.seed, out)
        self.case = case
        self.kind, self.folder = "poisoned", case.folder
        self.work = out / "work" / self.kind / self.folder
        self.targets = {case.targets.name: plan.columns[case.targets.name, case.seed]}
        self._stored = out / "attacks" / case.folder

    def attack(self, watch: Callable[[AttackStep], None]) -> Found:
        """Return what the attack found; its fake users are stored."""
        file = self._stored / "attack.json"
        if file.is_file():
            return Found(**json.loads(file.read_text(encoding="utf-8")))
        started = time.perf_counter()
        plan, case = self.plan, self.case
        result = plan.attacks[case.attack].run(
            plan.clicks, self._promoted, case.budget.num_fakes, seed=case.seed, watch=watch
        )
        with atomic_file(self._stored / "fakes.npz") as temporary, temporary.open("wb") as opened:
            np.savez(opened, offsets=result.fakes.offsets, columns=result.fakes.columns)
        found = Found(
            attack=case.attack,
            targets=case.targets.name,
            budget=case.budget.name,
            num_fakes=case.budget.num_fakes,
            seed=case.seed,
            num_clicks=len(result.fakes.columns),
            best=result.best,
            steps=[step._asdict() for step in result.steps],
            detectors=detectability(self.suspicions, plan.clicks.num_users),
            quantiles=self._quantiles(),
            seconds=time.perf_counter() - started,
        )
        write_json(file, asdict(found))
        return found

    @property
    def _promoted(self) -> NDArray[np.int64]:
        """The targets of the case [S]."""
        return self.targets[self.case.targets.name]

    @cached_property
    def fakes(self) -> Clicks:
        """The stored fake users."""
        with np.load(self._stored / "fakes.npz", allow_pickle=False) as stored:
            return Clicks(stored["offsets"], stored["columns"], self.plan.clicks.num_items)

    @cached_property
    def clicks(self) -> Clicks:
        """Training clicks of all users, real ones first."""
        return self.plan.clicks.join(self.fakes)

    @cached_property
    def dataset(self) -> Dataset:
        """The data with fake users."""
        folder = self.work / "data"
        if (folder / "dataset.json").is_file():
            return Dataset(folder)
        plan = self.plan
        dated = date_fakes(
            self.fakes,
            self._promoted,
            plan.dataset,
            plan.part,
            order=plan.order,
            seed=self.case.seed,
        )
        return write_poisoned(plan.dataset, folder, dated)

    def _quantiles(self) -> dict[str, dict[str, list[float]]]:
        num_real = self.plan.clicks.num_users
        return {
            name: {
                who: np.quantile(self.suspicions[name][part], QUANTILES).tolist()
                for who, part in (("real", slice(num_real)), ("fake", slice(num_real, None)))
            }
            for name in ("clicks", "popularity")
        }


def measure(
    plan: Plan, victim: Victim, data: TrainingData, defence: Defence | None, out: Path
) -> list[tuple[Outcome, Hits]]:
    """Return a model trained on the data, or on what a defence leaves of them, measured.

    One outcome for each name of targets, with the hit of each real user [U].
    """
    name = NO_DEFENCE if defence is None else defence.name
    folder = out / data.kind / victim.folder / data.folder / _folder_name(name)
    if not (folder / "outcome.json").is_file():
        started = time.perf_counter()
        work = data.work / _folder_name(name) / victim.folder
        left_out: dict[str, float] | None = None
        if defence is not None:
            rest, left_out = data.defended(defence)
            model = _train(victim, rest, data.seed, work).model
        elif data.case is None and victim.is_clean_for(data.seed):
            model = victim.run.model
        else:
            model = _train(victim, data.dataset, data.seed, work).model
        # Left out of the training or not, a user is recommended to by the whole history.
        accuracy = _accuracy(plan, model, data.dataset)
        ranks = _ranks(plan, model, data)
        seconds = time.perf_counter() - started
        case = data.case
        outcomes = [
            Outcome(
                victim=victim.name,
                attack=case.attack if case else None,
                targets=targets,
                budget=case.budget.name if case else None,
                seed=data.seed,
                defence=defence.name if defence else None,
                **asdict(target_metrics(ranked, plan.dataset.num_items, k=plan.k)),
                accuracy=accuracy,
                left_out=left_out,
                seconds=seconds,
            )
            for targets, ranked in ranks.items()
        ]
        _store(folder, outcomes, [hits(ranked, plan.k) for ranked in ranks.values()])
        shutil.rmtree(work, ignore_errors=True)
    return _stored(folder)


def _folder_name(text: str) -> str:
    """Return a name for a folder of any system."""
    return text.replace(":", "-")


def _train(victim: Victim, data: Dataset, seed: int, folder: Path) -> Run:
    """Return the victim's model trained on other data, as the run was, or on from a checkpoint."""
    if (folder / "run.json").is_file():
        return Run(folder)
    info = victim.run.info
    return train_with(
        info["model"],
        data,
        victim.settings(seed),
        out=folder,
        fit=info["fit"],
        resume=(folder / "settings.json").is_file(),
        overwrite=False,
    )


def _accuracy(plan: Plan, model: Model, dataset: Dataset) -> dict[str, float]:
    """Return how well the model ranks what real users did; fake ones have nothing held out."""
    ks = sorted({SHOWN_K, plan.k})
    return evaluate(model, dataset, split="test", ks=ks, num_resamples=0).metrics


def _ranks(plan: Plan, model: Model, data: TrainingData) -> dict[str, NDArray[np.int64]]:
    """Return the ranks [U, S] of the targets of each name."""
    every = np.concatenate(list(data.targets.values()))
    ends = np.cumsum([len(columns) for columns in data.targets.values()])
    ranks = target_ranks(model, data.dataset, every, num_users=plan.dataset.num_users)
    return dict(zip(data.targets, np.split(ranks, ends[:-1], axis=1), strict=True))


def _store(folder: Path, outcomes: list[Outcome], hit: list[Hits]) -> None:
    """Write what was measured; the JSON last, so that where it is, all is."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "hits.npy") as temporary, temporary.open("wb") as opened:
        np.save(opened, np.stack(hit))
    write_json(folder / "outcome.json", [asdict(outcome) for outcome in outcomes])


def _stored(folder: Path) -> list[tuple[Outcome, Hits]]:
    found: list[dict[str, Any]] = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    hit = np.load(folder / "hits.npy", allow_pickle=False)
    return [(Outcome(**one), own) for one, own in zip(found, hit, strict=True)]
