"""Search the settings of a model on the validation part of a dataset.

```
DIR/search.json     what is searched: model, dataset hash, fixed settings, ranges, metric, seed
DIR/study.db        the trials, as Optuna keeps them
DIR/trials.jsonl    the trials, one a line
DIR/tune.json       the best settings, and the command that trains with them
DIR/best/           the run of the best trial
DIR/report.html     a page about the search
```
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ensue.config import parse_settings
from ensue.data.dataset import Dataset
from ensue.errors import ConfigError, RunError, UsageError, did_you_mean
from ensue.files import atomic_file, write_json
from ensue.models.space import Space
from ensue.models.table import get_method, get_preset
from ensue.progress import note, track
from ensue.runs.output import open_output
from ensue.runs.plots import has_plots
from ensue.runs.run import Run
from ensue.runs.search_space import resolve_space
from ensue.runs.train import resolve_settings, train, validation_metrics
from ensue.runs.trials import Trial, Trials, open_trials, require_optuna
from ensue.runs.tune_report import build_tuning_html
from ensue.training.config import TrainingConfig, override
from ensue.training.loop import StopTraining

FORMAT = 1
DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    settings: of the best trial, searched and fixed ones; they go over the preset.
    trials: all that ended, in the order they began. info: what tune.json holds.
    """

    path: Path
    settings: dict[str, Any]
    value: float
    trials: tuple[Trial, ...]
    info: dict[str, Any]

    @property
    def run(self) -> Run:
        """The run of the best trial."""
        return Run(self.path / "best")


@dataclass(frozen=True)
class _Search:
    out: Path
    model: str
    dataset: Dataset
    preset: str | None
    fixed: dict[str, Any]
    space: Space
    metric: str


def tune(
    model: str,
    data: Dataset | str | Path,
    *,
    out: str | Path,
    trials: int | None = None,
    minutes: float | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    ranges: Space | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> Tuning:
    """Train `model` on `data` with one choice of settings after another, and return the best.

    Trials are compared by the setting `metric` on the validation part; the test part is not used.

    Args:
        out: a new folder; an earlier search in it is continued with resume=True.
        trials: how many trials finish, those of an earlier call included; None is 20, or without
            limit where `minutes` is given.
        minutes: no trial begins after so many minutes of searching.
        preset: a named group of settings of the model, below the fixed and the searched ones.
        settings: those that are not searched, by name.
        ranges: what is searched, over what the model declares, by name.
        seed: of the suggestions; each training has its own setting `seed`.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        ExtraError: Optuna is not installed.
        RunError: no trial was complete.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    require_optuna()
    _check_limits(trials, minutes, seed)
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    search = _make_search(Path(out), model, dataset, preset, settings or {}, ranges or {})
    open_output(
        search.out,
        "search.json",
        _identify(search, seed),
        work="search",
        resume=resume,
        overwrite=overwrite,
    )
    if trials is None and minutes is None:
        trials = DEFAULT_TRIALS
    with open_trials(search.out / "study.db", search.space, seed=seed) as stored:
        stored.end_interrupted()
        _keep_best_run(search.out, stored.ended())
        remaining = None if trials is None else max(trials - stored.num_finished, 0)
        # Counted from here: a first trial begins however long it took to get this far.
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        with track("tune", remaining, unit="trials") as advance:
            while (trials is None or stored.num_finished < trials) and (
                deadline is None or time.monotonic() < deadline
            ):
                _run_trial(search, stored)
                ended = stored.ended()
                _keep_best_run(search.out, ended)
                _write_state(search, ended, {})
                best = _best(ended)
                advance(1, **({f"best {search.metric}": best.value} if best else {}))
        return _finish(search, stored)


def _check_limits(trials: int | None, minutes: float | None, seed: int) -> None:
    if trials is not None and trials < 1:
        raise UsageError(f"trials must be 1 or more; got {trials}.")
    if minutes is not None and not minutes > 0:
        raise UsageError(f"minutes must be more than 0; got {minutes}.")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more; got {seed}.")


def _make_search(
    out: Path,
    model: str,
    dataset: Dataset,
    preset: str | None,
    settings: Mapping[str, Any],
    ranges: Space,
) -> _Search:
    """Return the search, with all checks that need no trial."""
    fixed = dict(settings)
    base = get_preset(model, preset)
    metric = {"metric": TrainingConfig().metric, **base, **fixed}["metric"]
    if metric not in validation_metrics():
        hint = did_you_mean(str(metric), validation_metrics())
        raise ConfigError(f"metric must be one that validation measures; got {metric!r}.{hint}")
    if get_method(model).is_fitted:
        fixed.pop("metric", None)  # of the search alone
    resolve_settings(model, override(base, fixed))
    if dataset.info.counts["validation"] == 0:
        raise UsageError(
            f"a search needs a validation part; {dataset.path} has none. "
            "Prepare the data with a split that has one."
        )
    return _Search(out, model, dataset, preset, fixed, resolve_space(model, fixed, ranges), metric)


def _identify(search: _Search, seed: int) -> dict[str, Any]:
    """Return what must be the same when a search is resumed."""
    identity = {
        "format": FORMAT,
        "model": search.model,
        "dataset": search.dataset.info.hash,
        "preset": search.preset,
        "settings": search.fixed,
        "ranges": {name: asdict(given) for name, given in search.space.items()},
        "metric": search.metric,
        "seed": seed,
    }
    return _as_json(identity)


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as JSON gives them back: tuples are lists."""
    stored: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return stored


def _run_trial(search: _Search, stored: Trials) -> None:
    """Train with one choice of settings and store how it ended."""
    trial, suggested = stored.ask()
    started = time.perf_counter()
    values: list[float] = []
    epochs = 0

    def on_validation(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal epochs
        epochs = epoch
        values.append(metrics[search.metric])
        trial.report(values[-1], step=len(values))
        if trial.should_prune():
            raise StopTraining

    def tell(state: Any, value: float | None, reason: str | None = None) -> None:
        seconds = time.perf_counter() - started
        stored.tell(trial, state, value, epochs=epochs, seconds=seconds, reason=reason)

    try:
        run = train(
            search.model,
            search.dataset,
            out=_trial_folder(search.out, trial.number + 1),
            preset=search.preset,
            on_validation=on_validation,
            **{**search.fixed, **suggested},
        )
    except StopTraining:
        tell("pruned", max(values))
    except (RunError, ConfigError, MemoryError, torch.OutOfMemoryError) as error:
        tell("failed", max(values, default=None), str(error) or type(error).__name__)
    else:
        tell("complete", run.info["metrics"]["validation"][search.metric])


def _trial_folder(out: Path, number: int) -> Path:
    return out / f"trial-{number:04d}"


def _best(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial of the largest value, the first of equals."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def _keep_best_run(out: Path, trials: Sequence[Trial]) -> None:
    """Make the run of the best trial DIR/best and remove those of the others.

    It may be stopped anywhere: called again, it ends what it began.
    """
    best = _best(trials)
    if best is not None:
        folder = _trial_folder(out, best.number)
        if (folder / "run.json").is_file():
            if (out / "best").exists():
                os.replace(out / "best", out / "trial-beaten")
            os.replace(folder, out / "best")
    for folder in out.glob("trial-*"):
        shutil.rmtree(folder)


def _write_state(
    search: _Search, trials: Sequence[Trial], importances: Mapping[str, float]
) -> dict[str, Any]:
    """Write trials.jsonl and tune.json, and return what the latter holds."""
    with atomic_file(search.out / "trials.jsonl") as temporary:
        lines = "".join(json.dumps(asdict(trial)) + "\n" for trial in trials)
        temporary.write_text(lines, encoding="utf-8")
    best = _best(trials)
    counts = Counter(trial.state for trial in trials)
    info = {
        "format": FORMAT,
        "model": search.model,
        "preset": search.preset,
        "dataset": {
            "name": search.dataset.info.name,
            "path": str(search.dataset.path.resolve()),
            "hash": search.dataset.info.hash,
        },
        "metric": search.metric,
        "fixed": search.fixed,
        "ranges": {name: asdict(given) for name, given in search.space.items()},
        "trials": {
            state: counts[state] for state in ("complete", "pruned", "failed", "interrupted")
        },
        "seconds": sum(trial.seconds for trial in trials),
        "importances": dict(importances),
        "best": None,
        "command": None,
    }
    if best is not None:
        settings = {**search.fixed, **best.settings}
        info["best"] = {"trial": best.number, "value": best.value, "settings": settings}
        info["command"] = _command(search, settings)
    info = _as_json(info)
    write_json(search.out / "tune.json", info)
    return info


def _command(search: _Search, settings: Mapping[str, Any]) -> str:
    """Return the command line that trains with these settings."""
    words = ["ensue", "train", search.model, str(search.dataset.path), "-o", f"{search.out}-best"]
    if search.preset is not None:
        words += ["--preset", search.preset]
    for name, value in settings.items():
        is_plain = isinstance(value, str) and parse_settings([f"x={value}"]) == {"x": value}
        words += ["--set", f"{name}={value if is_plain else json.dumps(value)}"]
    return shlex.join(words)


def _finish(search: _Search, stored: Trials) -> Tuning:
    """Write all that is told of a search, and return it.

    Raises:
        RunError: no trial was complete.
    """
    trials = stored.ended()
    info = _write_state(search, trials, stored.importances())
    best = _best(trials)
    if best is None or best.value is None:
        reasons = [trial.reason for trial in trials if trial.reason]
        raise RunError(
            f"a search needs a complete trial; {search.out} has none among {len(trials)}. "
            + (f"The last one failed: {reasons[-1]}" if reasons else "Let it run for longer.")
        )
    if has_plots():
        with atomic_file(search.out / "report.html") as temporary:
            html = build_tuning_html(info, [asdict(trial) for trial in trials])
            temporary.write_text(html, encoding="utf-8")
    else:
        note("No report.html: its plots need matplotlib; run pip install 'ensue[report]'.")
    return Tuning(search.out, info["best"]["settings"], best.value, tuple(trials), info)
