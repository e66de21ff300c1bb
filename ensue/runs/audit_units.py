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
from ensue.audit.detectors import detectability, join_clicks, suspicions
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


class Poisoned:
    """The fake users of a case, and the data that hold them; each is made when it is needed."""

    def __init__(self, plan: Plan, case: Case, out: Path) -> None:
        self.plan, self.case, self.out = plan, case, out
        self.folder = out / "attacks" / case.folder
        self.work = out / "work" / "poisoned" / case.folder
        self.targets = plan.columns[case.targets.name, case.seed]

    def attack(self, watch: Callable[[AttackStep], None]) -> Found:
        """Return what the attack found; its fake users are stored."""
        file = self.folder / "attack.json"
        if file.is_file():
            return Found(**json.loads(file.read_text(encoding="utf-8")))
        started = time.perf_counter()
        plan, case = self.plan, self.case
        result = plan.attacks[case.attack].run(
            plan.clicks, self.targets, case.budget.num_fakes, seed=case.seed, watch=watch
        )
        with atomic_file(self.folder / "fakes.npz") as temporary, temporary.open("wb") as opened:
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

    @cached_property
    def fakes(self) -> Clicks:
        """The stored fake users."""
        with np.load(self.folder / "fakes.npz", allow_pickle=False) as stored:
            return Clicks(stored["offsets"], stored["columns"], self.plan.clicks.num_items)

    @cached_property
    def suspicions(self) -> dict[str, NDArray[np.float64]]:
        """What each detector says of each user, real ones first."""
        return suspicions(join_clicks(self.plan.clicks, self.fakes), seed=self.case.seed)

    @cached_property
    def dataset(self) -> Dataset:
        """The poisoned dataset."""
        folder = self.work / "data"
        if (folder / "dataset.json").is_file():
            return Dataset(folder)
        plan = self.plan
        dated = date_fakes(
            self.fakes, self.targets, plan.dataset, plan.part, order=plan.order, seed=self.case.seed
        )
        return write_poisoned(plan.dataset, folder, dated)

    @cached_property
    def is_trained_on(self) -> NDArray[np.bool_]:
        """Which rows of the poisoned dataset are training data."""
        return self.dataset.column("split") < TRAINED[self.plan.part]

    def defended(self, defence: Defence) -> tuple[Dataset, dict[str, float]]:
        """Return what a defence leaves of the data, and the shares of clicks that it leaves out."""
        keep = kept_rows(
            defence, self.dataset, self.is_trained_on, self.suspicions, seed=self.case.seed
        )
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
        """Give up the data; fake users stay."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _quantiles(self) -> dict[str, dict[str, list[float]]]:
        num_real = self.plan.clicks.num_users
        return {
            name: {
                who: np.quantile(self.suspicions[name][part], QUANTILES).tolist()
                for who, part in (("real", slice(num_real)), ("fake", slice(num_real, None)))
            }
            for name in ("clicks", "popularity")
        }


def measure_clean(plan: Plan, victim: Victim, seed: int, out: Path) -> list[tuple[Outcome, Hits]]:
    """Return a model trained without fake users, measured for the targets of a seed."""
    folder = out / "clean" / victim.folder / str(seed)
    names = [targets.name for targets in plan.targets]
    if not (folder / "outcome.json").is_file():
        started = time.perf_counter()
        work = out / "work" / "clean" / victim.folder / str(seed)
        is_given = victim.is_clean_for(seed)
        run = victim.run if is_given else _train(victim, plan.dataset, seed, work)
        model = run.model
        accuracy = _accuracy(plan, model, plan.dataset)
        every = np.concatenate([plan.columns[name, seed] for name in names])
        ends = np.cumsum([len(plan.columns[name, seed]) for name in names])
        ranks = np.split(_ranks(plan, model, plan.dataset, every), ends[:-1], axis=1)
        seconds = time.perf_counter() - started
        outcomes = [
            _outcome(plan, victim, None, name, seed, ranked, accuracy, seconds)
            for name, ranked in zip(names, ranks, strict=True)
        ]
        _store(folder, outcomes, [hits(ranked, plan.k) for ranked in ranks])
        shutil.rmtree(work, ignore_errors=True)
    return _stored(folder)


def measure_poisoned(
    plan: Plan, victim: Victim, poisoned: Poisoned, defence: Defence | None, out: Path
) -> list[tuple[Outcome, Hits]]:
    """Return a model trained with fake users, or on what a defence leaves of the data, measured."""
    case, name = poisoned.case, NO_DEFENCE if defence is None else defence.name
    folder = out / "poisoned" / victim.folder / case.folder / _folder_name(name)
    if not (folder / "outcome.json").is_file():
        started = time.perf_counter()
        data, left_out = poisoned.dataset, None
        if defence is not None:
            data, left_out = poisoned.defended(defence)
        work = poisoned.work / _folder_name(name) / victim.folder
        model = _train(victim, data, case.seed, work).model
        # Left out of the training or not, a user is recommended to by the whole history.
        accuracy = _accuracy(plan, model, poisoned.dataset)
        ranks = _ranks(plan, model, poisoned.dataset, poisoned.targets)
        seconds = time.perf_counter() - started
        outcome = _outcome(
            plan, victim, case, case.targets.name, case.seed, ranks, accuracy, seconds,
            defence=defence, left_out=left_out,
        )  # fmt: skip
        _store(folder, [outcome], [hits(ranks, plan.k)])
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


def _ranks(
    plan: Plan, model: Model, dataset: Dataset, targets: NDArray[np.int64]
) -> NDArray[np.int64]:
    return target_ranks(model, dataset, targets, num_users=plan.dataset.num_users)


def _outcome(
    plan: Plan,
    victim: Victim,
    case: Case | None,
    targets: str,
    seed: int,
    ranks: NDArray[np.int64],
    accuracy: dict[str, float],
    seconds: float,
    *,
    defence: Defence | None = None,
    left_out: dict[str, float] | None = None,
) -> Outcome:
    return Outcome(
        victim=victim.name,
        attack=case.attack if case else None,
        targets=targets,
        budget=case.budget.name if case else None,
        seed=seed,
        defence=defence.name if defence else None,
        **asdict(target_metrics(ranks, plan.dataset.num_items, k=plan.k)),
        accuracy=accuracy,
        left_out=left_out,
        seconds=seconds,
    )


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
