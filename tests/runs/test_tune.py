"""A search finds, stops what is bad, survives, and tells the truth about its trials."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensue.data.dataset import Dataset
from ensue.errors import EnsueError, ExtraError, RunError, UsageError
from ensue.models.space import Choice, Range
from ensue.runs import tune as module
from ensue.runs.plots import has_plots
from ensue.runs.train import train, validation_metrics
from ensue.runs.trials import Trial, Trials
from ensue.runs.tune import Tuning, tune
from ensue.runs.tune_report import build_tuning_html
from ensue.training.loop import TrainingLoop
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page, which takes longer than the search, where a test is not about it."""
    monkeypatch.setattr(module, "has_plots", lambda: False)


FAST = {"epochs": 2, "batch_size": 64, "weight_decay": 0.0}
SPACE = {"learning_rate": Range(1e-3, 0.1), "dim": Choice((4, 8))}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Some items are far more popular than others: even one epoch learns something."""
    rng = np.random.default_rng(0)
    share = np.arange(1, 31) ** -1.0
    histories = [
        (rng.choice(30, size=10, replace=False, p=share / share.sum()) + 1).tolist()
        for _ in range(60)
    ]
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", histories, num_items=30)


def search(dataset: Dataset, out: Path, **options: Any) -> Tuning:
    return tune("bpr", dataset, out=out, **{"settings": FAST, "ranges": SPACE, **options})


@pytest.fixture(scope="module")
def found(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    return search(dataset, tmp_path_factory.mktemp("search") / "tune", trials=3)


def outcome(tuning: Tuning) -> list[Trial]:
    """Return the trials that finished, without their times and numbers."""
    ended = [trial for trial in tuning.trials if trial.state != "interrupted"]
    return [replace(trial, seconds=0.0, number=0) for trial in ended]


@pytest.mark.slow
def test_the_same_seed_is_the_same_search(dataset: Dataset, tmp_path: Path, found: Tuning) -> None:
    assert outcome(search(dataset, tmp_path / "again", trials=3)) == outcome(found)
    other = search(dataset, tmp_path / "other", trials=3, seed=1)
    assert outcome(other) != outcome(found)


def test_the_best_trial_is_kept_as_a_run(dataset: Dataset, found: Tuning) -> None:
    best = max(found.trials, key=lambda trial: trial.value or 0.0)
    assert found.value == best.value
    assert found.settings == {**FAST, **best.settings}
    run = found.run
    assert run.info["metrics"]["validation"]["map"] == found.value
    measured = run.evaluate(dataset, split="validation", num_resamples=0).metrics["map"]
    assert measured == pytest.approx(found.value, abs=1e-12)
    (answer,) = run.recommend(histories=[["i1", "i2"]], k=3)
    assert len(answer.items) == 3


def test_the_folder_holds_what_was_promised(found: Tuning) -> None:
    names = {path.name for path in found.path.iterdir()}
    assert names == {"best", "report.html", "search.json", "study.db", "trials.jsonl", "tune.json"}
    lines = [json.loads(text) for text in (found.path / "trials.jsonl").read_text().splitlines()]
    assert [Trial(**line) for line in lines] == list(found.trials)
    assert [trial.number for trial in found.trials] == [1, 2, 3]
    info = json.loads((found.path / "tune.json").read_text())
    assert info == found.info
    assert info["best"]["value"] == found.value
    assert info["trials"] == {"complete": 3, "pruned": 0, "failed": 0, "interrupted": 0}
    assert all(trial.epochs == 2 and trial.seconds > 0 for trial in found.trials)


def test_the_settings_give_the_best_value_again(
    dataset: Dataset, tmp_path: Path, found: Tuning
) -> None:
    run = train("bpr", dataset, out=tmp_path / "run", **found.settings)
    assert run.info["metrics"]["validation"]["map"] == found.value


def stop_training(patch: pytest.MonkeyPatch) -> None:
    """Stop in the second trial, between two steps."""
    step, steps = TrainingLoop._step, [0]

    def limited(loop: TrainingLoop, *batch: Any) -> Any:
        steps[0] += 1
        if steps[0] > 20:
            raise KeyboardInterrupt
        return step(loop, *batch)

    patch.setattr(TrainingLoop, "_step", limited)


def stop_before_telling(patch: pytest.MonkeyPatch) -> None:
    """Stop when the second trial is trained and not yet counted."""
    tell, told = Trials.tell, [0]

    def limited(trials: Trials, *arguments: Any, **facts: Any) -> None:
        told[0] += 1
        if told[0] > 1:
            raise KeyboardInterrupt
        tell(trials, *arguments, **facts)

    patch.setattr(Trials, "tell", limited)


def stop_before_moving(patch: pytest.MonkeyPatch) -> None:
    """Stop when a trial is counted as the best and its run is not yet in its place."""
    replace_file = os.replace

    def limited(source: Any, target: Any) -> None:
        if Path(target).name == "best":
            raise KeyboardInterrupt
        replace_file(source, target)

    patch.setattr(module.os, "replace", limited)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "num_interrupted"),
    [(stop_training, 1), (stop_before_telling, 1), (stop_before_moving, 0)],
)
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: Tuning,
    stop: Any,
    num_interrupted: int,
) -> None:
    out = tmp_path / "tune"
    with monkeypatch.context() as patch:
        stop(patch)
        with pytest.raises(KeyboardInterrupt):
            search(dataset, out, trials=3)
    resumed = search(dataset, out, trials=3, resume=True)
    assert outcome(resumed) == outcome(found)
    assert resumed.info["trials"]["interrupted"] == num_interrupted
    assert resumed.info["trials"]["complete"] == 3
    assert resumed.run.info["metrics"]["validation"]["map"] == found.value
    assert list(out.glob("trial-*")) == []


@pytest.mark.slow
def test_a_finished_search_is_extended(dataset: Dataset, tmp_path: Path, found: Tuning) -> None:
    out = tmp_path / "tune"
    search(dataset, out, trials=2)
    assert len(search(dataset, out, trials=2, resume=True).trials) == 2
    assert outcome(search(dataset, out, trials=3, resume=True)) == outcome(found)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"settings": {**FAST, "epochs": 3}}, "settings"),
        ({"ranges": {"learning_rate": Range(1e-3, 0.2)}}, "ranges"),
        ({"settings": {**FAST, "metric": "mrr"}}, "metric"),
        ({"seed": 3}, "seed"),
    ],
)
def test_another_search_is_not_resumed(
    dataset: Dataset, found: Tuning, change: dict[str, Any], name: str
) -> None:
    with pytest.raises(UsageError, match=rf"a search is resumed with .* differs in .*{name}"):
        search(dataset, found.path, resume=True, **change)


def test_another_dataset_is_not_searched_on(found: Tuning, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", [[1, 2, 3, 4], [2, 3, 1, 4]])
    with pytest.raises(UsageError, match="differs in dataset"):
        search(other, found.path, resume=True)


def test_an_existing_folder_is_replaced_only_when_asked(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "tune"
    search(dataset, out, trials=1)
    with pytest.raises(UsageError, match=r"exists. Continue it with --resume, replace it with"):
        search(dataset, out, trials=1)
    assert len(search(dataset, out, trials=2, overwrite=True).trials) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "trial-of-mine").touch()
    for option in ("overwrite", "resume"):
        with pytest.raises(UsageError, match="exists and holds no search"):
            search(dataset, tmp_path / "mine", trials=1, **{option: True})


@pytest.mark.slow
def test_bad_trials_are_given_up_early(dataset: Dataset, tmp_path: Path) -> None:
    ranges = {"learning_rate": Choice((0.05, 1e-9))}
    settings = {**FAST, "dim": 4, "epochs": 5, "patience": None}
    tuning = search(dataset, tmp_path / "tune", trials=10, settings=settings, ranges=ranges)
    pruned = [trial for trial in tuning.trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.settings == {"learning_rate": 1e-9}
        assert trial.epochs == 3  # the first validation at which a trial may be given up
        assert trial.value is not None
        assert trial.value < tuning.value
    assert tuning.settings["learning_rate"] == 0.05
    assert {t.epochs for t in tuning.trials if t.state == "complete"} == {5}


@pytest.mark.slow
def test_a_loss_that_diverges_fails_the_trial_alone(dataset: Dataset, tmp_path: Path) -> None:
    ranges = {"learning_rate": Choice((0.05, 1e30))}
    settings = {**FAST, "dim": 4, "epochs": 6}
    tuning = search(dataset, tmp_path / "tune", trials=6, settings=settings, ranges=ranges)
    failed = [trial for trial in tuning.trials if trial.state == "failed"]
    assert 0 < len(failed) < 6
    assert all("the loss must be finite" in (trial.reason or "") for trial in failed)
    assert {trial.settings["learning_rate"] for trial in failed} == {1e30}
    html = build_tuning_html(tuning.info, [asdict(trial) for trial in tuning.trials])
    assert html.count("<td>the loss must be finite") == len(failed)


def test_a_search_in_which_all_fails_says_why(dataset: Dataset, tmp_path: Path) -> None:
    ranges = {"learning_rate": Choice((1e29, 1e30))}
    with pytest.raises(RunError, match=r"has none among 2. The last one failed: the loss must be"):
        search(
            dataset,
            tmp_path / "tune",
            trials=2,
            settings={**FAST, "dim": 4, "epochs": 6},
            ranges=ranges,
        )
    info = json.loads((tmp_path / "tune" / "tune.json").read_text())
    assert info["trials"]["failed"] == 2
    assert info["best"] is None


@pytest.mark.slow
def test_a_model_computed_in_one_go(dataset: Dataset, tmp_path: Path) -> None:
    tuning = tune(
        "markov", dataset, out=tmp_path / "tune", trials=12, settings={"metric": "ndcg@10"}
    )
    assert tuning.info["metric"] == "ndcg@10"
    assert list(tuning.settings) == ["smoothing"]
    assert tuning.run.info["metrics"]["validation"]["ndcg@10"] == tuning.value
    assert tuning.info["importances"] == {"smoothing": 1.0}


def test_no_trial_begins_after_the_minutes(dataset: Dataset, tmp_path: Path) -> None:
    tuning = search(dataset, tmp_path / "tune", minutes=1e-9 + 0.5 / 60)
    assert 1 <= len(tuning.trials) < 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be 1 or more; got 0."),
        ({"minutes": 0}, "minutes must be more than 0; got 0."),
        ({"seed": -1}, "seed must be 0 or more; got -1."),
        ({"preset": "papre"}, "bpr has no preset 'papre'. It has none."),
        ({"settings": {"dmi": 4}}, "bpr has no setting 'dmi'. Did you mean 'dim'?"),
        (
            {"settings": {"metric": "ndgc@10"}},
            "metric must be one that validation measures; got 'ndgc@10'. Did you mean 'ndcg@10'?",
        ),
        (
            {"settings": {"dim": 4}},
            "a setting is fixed or searched; 'dim' is both. Leave out --set or --range.",
        ),
    ],
)
def test_bad_input(dataset: Dataset, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EnsueError) as error:
        search(dataset, tmp_path / "tune", **options)
    assert str(error.value) == message
    assert not (tmp_path / "tune").exists()


def test_a_dataset_without_validation(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [[1, 2, 3], [2, 3, 1]], split="none")
    with pytest.raises(UsageError, match=r"a search needs a validation part; .* has none"):
        tune("markov", data, out=tmp_path / "tune")


def test_the_metrics_of_validation_are_known(dataset: Dataset, tmp_path: Path) -> None:
    run = train("popularity", dataset, out=tmp_path / "run")
    assert sorted(run.info["metrics"]["validation"]) == sorted(validation_metrics())


def test_optuna_missing_is_named_with_its_extra(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ExtraError, match=r"a search over settings needs .*ensue\[tune\]"):
        search(dataset, tmp_path / "tune")


def test_without_matplotlib_only_the_page_is_missing(
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "has_plots", has_plots)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    tuning = search(dataset, tmp_path / "tune", trials=1)
    assert not (tuning.path / "report.html").exists()
    assert "pip install 'ensue[report]'" in capsys.readouterr().err


def test_the_page_shows_the_search(found: Tuning) -> None:
    html = (found.path / "report.html").read_text(encoding="utf-8")
    assert_self_contained(html)
    texts = Page(html).texts
    for text in (
        "bpr on tiny: a search",
        f"{found.value:.4f}",
        f"trial {found.info['best']['trial']}",
        "3 complete",
        found.info["command"],
        "map on validation",
        "learning_rate",
        "0.001 to 0.1, log scale",
        "4, 8",
        "Too few complete trials to say which setting matters.",
    ):
        assert text in texts
    assert html.count("<svg") == 1 + len(found.info["ranges"])
    assert html.count("<td>complete</td>") == 3
