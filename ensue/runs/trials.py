"""The trials of a search: suggested and judged by Optuna (extra "tune"), kept in a SQLite file.

What is suggested depends on the seed and on the trials finished before, and on nothing else: a
search that was interrupted goes on with the suggestions it would have made.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ensue.errors import ExtraError, RunError
from ensue.models.space import Choice, Range, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OpenTrial

State = Literal["complete", "pruned", "failed", "interrupted"]

# A trial is given up when its best value so far is below the median of the complete trials after as
# many validations: once there are so many of them, and it has had so many validations.
PRUNE_AFTER_TRIALS = 5
PRUNE_AFTER_VALIDATIONS = 3
MIN_TRIALS_FOR_IMPORTANCE = 10


@dataclass(frozen=True)
class Trial:
    """A trial that ended.

    number: 1, 2, ... in the order they began. value: the best of its validations, None if it had
    none. settings: those that are searched. epochs: validated or trained; 0 for a model computed in
    one go. reason: why it failed.
    """

    number: int
    state: State
    value: float | None
    settings: dict[str, Any]
    epochs: int
    seconds: float
    reason: str | None = None


class Trials:
    """The stored trials of one search; made by `open_trials`."""

    def __init__(self, study: Study, space: Space, seed: int) -> None:
        self._study, self._space, self._seed = study, space, seed

    @property
    def num_finished(self) -> int:
        """How many trials ended by themselves: complete, pruned or failed."""
        return sum(trial.state != "interrupted" for trial in self.ended())

    def ended(self) -> list[Trial]:
        """Return all trials that ended, in the order they began."""
        return [self._describe(t) for t in self._study.get_trials() if t.state.is_finished()]

    def ask(self) -> tuple[OpenTrial, dict[str, Any]]:
        """Return a new trial and its settings."""
        from optuna.samplers import TPESampler

        # A generator for each trial: one for the search would start over when it is resumed.
        sequence = np.random.SeedSequence([self._seed, self.num_finished])
        self._study.sampler = TPESampler(seed=int(sequence.generate_state(1)[0]))
        trial = self._study.ask({name: _distribution(s) for name, s in self._space.items()})
        return trial, self._decode(trial.params)

    def tell(self, trial: OpenTrial, state: State, value: float | None, **facts: Any) -> None:
        """End a trial that was complete, pruned or failed.

        Args:
            facts: epochs, seconds and, if it failed, reason of `Trial`.
        """
        from optuna.trial import TrialState

        trial.set_user_attr("facts", {**facts, "value": value})
        if state == "complete":
            self._study.tell(trial, value)
        else:
            self._study.tell(
                trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL
            )

    def end_interrupted(self) -> None:
        """Give up the trial that was running when the search was stopped."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials():
            if not trial.state.is_finished():
                self._study.tell(trial.number, state=TrialState.FAIL)

    def importances(self) -> dict[str, float]:
        """Return the share of each setting in what sets good trials apart; {} for too few trials.

        PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023).
        """
        values = [trial.value for trial in self.ended() if trial.state == "complete"]
        if len(values) < MIN_TRIALS_FOR_IMPORTANCE or len(set(values)) < 2:
            return {}
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the evaluator is new in some versions
            evaluator = PedAnovaImportanceEvaluator()
            return get_param_importances(self._study, evaluator=evaluator)

    def _describe(self, trial: FrozenTrial) -> Trial:
        facts = {
            "epochs": 0,
            "seconds": 0.0,
            "value": None,
            "reason": None,
            **trial.user_attrs.get("facts", {}),
        }
        state: State = "failed" if facts["reason"] else "interrupted"
        if trial.state.name in ("COMPLETE", "PRUNED"):
            state = "complete" if trial.state.name == "COMPLETE" else "pruned"
        return Trial(trial.number + 1, state, settings=self._decode(trial.params), **facts)

    def _decode(self, suggested: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: json.loads(suggested[name]) if isinstance(given, Choice) else suggested[name]
            for name, given in self._space.items()
            if name in suggested
        }


@contextmanager
def open_trials(file: Path, space: Space, *, seed: int) -> Iterator[Trials]:
    """Yield the trials stored in `file`, which is made if it does not exist.

    Raises:
        RunError: another version of Optuna wrote the file and this one cannot read it.
    """
    import optuna
    from optuna.pruners import MedianPruner

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        # Opened here, so that any file name will do: in an address some characters would not.
        storage = optuna.storages.RDBStorage(
            "sqlite:///study.db", engine_kwargs={"creator": lambda: sqlite3.connect(file)}
        )
    except RuntimeError as error:
        raise RunError(
            f"{file} must be readable by Optuna {optuna.__version__}; it is not: {error}"
        ) from None
    try:
        study = optuna.create_study(
            storage=storage,
            study_name="ensue",
            direction="maximize",
            pruner=MedianPruner(
                n_startup_trials=PRUNE_AFTER_TRIALS, n_warmup_steps=PRUNE_AFTER_VALIDATIONS
            ),
            load_if_exists=True,
        )
        yield Trials(study, space, seed)
    finally:
        storage.remove_session()
        storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def require_optuna() -> None:
    """Check that a search can be made.

    Raises:
        ExtraError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise ExtraError("optuna", "tune", "a search over settings")


def _distribution(given: Range | Choice) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(given, Choice):
        return CategoricalDistribution([json.dumps(value) for value in given.values])
    kind = IntDistribution if isinstance(given.low, int) else FloatDistribution
    return kind(given.low, given.high, log=bool(given.log))  # type: ignore[arg-type]
