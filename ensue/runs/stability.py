"""How large a learning rate a network can take: trainings over rules, rates and seeds.

After Tang et al., "Improving Training Stability for Multitask Ranking Models in Recommender
Systems", KDD 2023, arXiv:2302.09178. The definitions are ours. A training has diverged when its
loss is not finite, or when at its end the AUC of a task is at most 0.505 and before that some loss
was more than twice its first (what has hardly moved has no AUC either). It had a micro-divergence
when it did not diverge, but the loss of a task leapt and came back (`ensue.training.spikes`).

```
DIR/sweep.json          what is trained
DIR/runs/RULE/RATE/N/   of a training: its log, and what came out, run.json
DIR/stability.json      what they come to, by rule and rate
DIR/stability.html      a page about it
```
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from ensue.config import make_config
from ensue.errors import UsageError
from ensue.files import atomic_file, write_json
from ensue.optim.clippy import DirectionName, RuleName
from ensue.progress import track
from ensue.runs.output import open_output
from ensue.runs.plots import has_plots
from ensue.runs.stability_page import build_stability_html
from ensue.runs.stability_problem import Bench, Quality
from ensue.runs.stability_result import Outcome, Stability, divergence, summarize
from ensue.runs.stability_stream import stream_bench
from ensue.training.config import TrainingConfig
from ensue.training.log import read_log
from ensue.training.loop import DivergenceError, TrainingLoop, pick_device

ORDER = ("none", "gc", "agc", "lamb", "clippy")  # of rules, where they are shown
RULES = ("none", "gc:0.1", "agc:0.01", "lamb:0.1", "clippy")
WRITE_SECONDS = 60.0  # between pages of an unfinished sweep
RATES = tuple(0.005 * 2**n for n in range(10))

# What a training of a sweep is, unless `settings` say otherwise.
TRAINING = {"epochs": 1, "weight_decay": 0.0, "patience": None, "optimizer": "clippy"}
SWEPT = ("learning_rate", "seed", "clip_rule", "clip_threshold", "clip_direction", "epochs")


def stability(
    bench: Bench | None = None,
    *,
    out: str | Path,
    rules: Sequence[str] = RULES,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (0, 1, 2),
    settings: Mapping[str, Any] | None = None,
    until_diverged: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> Stability:
    """Train with each rule at each rate from each seed, and return what the trainings come to.

    Args:
        bench: what is trained; None is the small network on the synthetic stream.
        out: a new folder; with resume=True trainings that are in it are not repeated, and more
            rules, rates and seeds may be asked for.
        rules: as RULE[:THRESHOLD][@DIRECTION], the names of `ensue.optim.clippy`: "none" is plain
            Adagrad, "gc:0.1", "clippy@adam".
        settings: of the training (`TrainingConfig`), the same for all.
        until_diverged: leave out the rates of a rule above one at which all seeds diverged.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    bench = bench or stream_bench()
    settings = dict(settings or {})
    out = Path(out)
    rates = sorted({float(f"{rate:.6g}") for rate in rates})  # as folders are named
    _check(rules, rates, seeds, settings)
    identity = {"bench": bench.facts, "settings": settings}
    open_output(out, "sweep.json", identity, work="sweep", resume=resume, overwrite=overwrite)
    written = time.monotonic()
    with track("stability", len(rules) * len(rates) * len(seeds), unit="trainings") as advance:
        for rule in rules:
            for number, rate in enumerate(rates):
                found = []
                for seed in seeds:
                    found.append(_train(bench, out, rule, rate, seed, settings))
                    advance(1, rule=rule, rate=rate)
                if time.monotonic() - written > WRITE_SECONDS:
                    _write(load_stability(out))
                    written = time.monotonic()
                if until_diverged and all(outcome.has_diverged for outcome in found):
                    advance((len(rates) - number - 1) * len(seeds))
                    break
    sweep = load_stability(out)
    _write(sweep)
    return sweep


def load_stability(path: str | Path) -> Stability:
    """Return what is there of a sweep, finished or not.

    Raises:
        UsageError: the folder holds no sweep.
    """
    path = Path(path)
    if not (path / "sweep.json").is_file():
        raise UsageError(f"a sweep must hold sweep.json; {path} holds none.")
    identity = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
    files = path.glob("runs/*/*/*/run.json")
    outcomes = [Outcome(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    outcomes.sort(key=lambda outcome: (*_place(outcome.rule), outcome.rate, outcome.seed))
    rules = list(dict.fromkeys(outcome.rule for outcome in outcomes))
    return Stability(path, identity, summarize(outcomes, rules), outcomes)


def doubling(smallest: float, largest: float) -> list[float]:
    """Return rates, each twice the one before.

    >>> doubling(0.1, 0.4)
    [0.1, 0.2, 0.4]

    Raises:
        UsageError: there is none.
    """
    if not 0 < smallest <= largest:
        raise UsageError(
            f"rates go from one above 0 to one that is not smaller; got {smallest} to {largest}."
        )
    count = int(math.log2(largest / smallest) + 1e-9) + 1
    return [smallest * 2**number for number in range(count)]


def parse_rule(text: str) -> dict[str, Any]:
    """Return the settings of the training that a rule stands for.

    >>> parse_rule("gc:0.1@adam")
    {'clip_rule': 'gc', 'clip_direction': 'adam', 'clip_threshold': 0.1}

    Raises:
        UsageError: it does not name a rule.
    """
    whole, _, direction = text.partition("@")
    name, colon, threshold = whole.partition(":")
    names, directions = get_args(RuleName), get_args(DirectionName)
    settings: dict[str, Any] = {"clip_rule": name, "clip_direction": direction or "adagrad"}
    try:
        if colon:
            settings["clip_threshold"] = float(threshold)
    except ValueError:
        name = ""
    if name not in names or settings["clip_direction"] not in directions:
        raise UsageError(
            f"a rule must be RULE[:THRESHOLD][@DIRECTION], RULE of {', '.join(names)} and "
            f"DIRECTION of {', '.join(directions)}; got {text!r}."
        )
    return settings


def _check(
    rules: Sequence[str], rates: Sequence[float], seeds: Sequence[int], settings: Mapping[str, Any]
) -> None:
    """Refuse arguments that would fail only after hours."""
    if not rules or not rates or not seeds or min(rates) <= 0:
        raise UsageError(
            "a sweep needs at least one rule, one rate above 0 and one seed; "
            f"got {list(rules)}, {list(rates)} and {list(seeds)}."
        )
    swept = [name for name in SWEPT if name in settings]
    if swept:
        raise UsageError(f"{swept[0]} is what a sweep sets itself; leave it out of the settings.")
    for rule in rules:
        for rate in rates:
            _config(rule, rate, 0, settings)


def _config(rule: str, rate: float, seed: int, settings: Mapping[str, Any]) -> TrainingConfig:
    chosen = {**TRAINING, "watch_spikes": True, **settings, **parse_rule(rule)}
    return make_config(TrainingConfig, {**chosen, "learning_rate": rate, "seed": seed})


def _train(
    bench: Bench, out: Path, rule: str, rate: float, seed: int, settings: Mapping[str, Any]
) -> Outcome:
    """Return what came out of a training, which is not repeated where that is known."""
    name = rule.replace(":", "-").replace("@", "-")
    folder = out / "runs" / name / f"{rate:.6g}" / str(seed)
    file = folder / "run.json"
    if file.is_file():
        return Outcome(**json.loads(file.read_text(encoding="utf-8")))
    started = time.perf_counter()
    config = _config(rule, rate, seed, settings)
    reason: str | None = None
    quality: Quality = {"auc": {}, "rmse": {}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        problem = bench.make(seed)
        model = problem.model.to(pick_device(config.device))
        loop = TrainingLoop(model, problem.objective, config, directory=folder)
        assert loop.watch is not None
        try:
            loop.run(resume=True)
        except DivergenceError:
            reason = "loss"
        else:
            with torch.no_grad():
                quality = problem.measure(model)
            reason = divergence(quality, loop.watch.detector.leap)
    line = (read_log(folder) or [{}])[-1]
    spikes = line.get("spikes") or loop.watch.take()
    leap = loop.watch.detector.leap
    outcome = Outcome(
        rule, rate, seed, reason, leap if math.isfinite(leap) else None, quality, spikes,
        clipping=line.get("clipping", {}), seconds=time.perf_counter() - started,
    )  # fmt: skip
    write_json(file, asdict(outcome))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of every training they are too much
    return outcome


def _place(rule: str) -> tuple[int, str, float]:
    """Return what rules are ordered by: as they are known, then by direction and threshold."""
    settings = parse_rule(rule)
    name, direction = settings["clip_rule"], settings["clip_direction"]
    return ORDER.index(name), direction, settings.get("clip_threshold", 0.0)


def _write(found: Stability) -> None:
    """Write what is known so far, and a page about it where plots can be drawn."""
    write_json(found.path / "stability.json", found.to_dict())
    if has_plots():
        with atomic_file(found.path / "stability.html") as temporary:
            temporary.write_text(build_stability_html(found), encoding="utf-8")
