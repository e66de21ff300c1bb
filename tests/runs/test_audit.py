from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import ensue
from ensue.audit.base import AttackResult, AttackStep
from ensue.audit.clicks import Clicks
from ensue.cli.main import app
from ensue.data.dataset import Dataset
from ensue.errors import ConfigError, DataError, UsageError
from ensue.models.table import METHODS
from ensue.runs import audit_units
from ensue.runs.audit import audit
from ensue.runs.audit_result import Audit, Outcome, Protection, key_of, summarize
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

NUM_USERS, NUM_ITEMS = 60, 40


class Planted:
    """Fake users who click the targets and the items that most real users have, in two steps."""

    name = "planted"

    def __init__(self) -> None:
        self.calls = 0

    def run(
        self,
        real: Clicks,
        targets: NDArray[np.int64],
        num_fakes: int,
        *,
        seed: int,
        watch: Callable[[AttackStep], None] | None = None,
    ) -> AttackResult:
        self.calls += 1
        best = np.argsort(-real.counts())[:6]
        fakes = Clicks.from_rows([np.append(targets, best)] * num_fakes, real.num_items)
        steps = [AttackStep(n, 2.0 - n, 0.1 * n, 9.0, 5, 1, 0.1) for n in range(2)]
        for step in steps:
            if watch is not None:
                watch(step)
        return AttackResult(fakes, steps, 1)


def write_data(path: Path, **options: Any) -> Dataset:
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, NUM_ITEMS + 1)
    histories = [
        (rng.choice(NUM_ITEMS, 12, replace=False, p=weights / weights.sum()) + 1).tolist()
        for _ in range(NUM_USERS)
    ]
    return make_dataset(path, histories, num_items=NUM_ITEMS, name="<b>shop</b>", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    data = write_data(folder / "data")
    ensue.train("item_knn", data, out=folder / "knn", num_neighbors=20)
    ensue.train("popularity", data, out=folder / "pop")
    return folder


ASKED: dict[str, Any] = {
    "targets": ["tail", ["i40", "i39"]],
    "budgets": [9],
    "defences": ["cap:5%"],
    "seeds": (0, 1),
    "num_targets": 2,
    "k": 5,
}


@pytest.fixture(scope="module")
def found(folder: Path) -> Audit:
    return audit([folder / "knn", folder / "pop"], out=folder / "out", attacks=[Planted()], **ASKED)


def test_a_planted_attack_pushes_its_targets(found: Audit) -> None:
    assert len(found.found) == 2 * 2
    assert len(found.outcomes) == 2 * 2 * 2 * 2 + 2 * 2 * 2 * 2
    assert len(found.effects) == 2 * 2 * 2
    (strong,) = (e for e in found.attacked if (e.victim, e.targets) == ("knn", "items"))
    assert strong.after > strong.before + 0.2
    assert strong.interval[0] <= strong.lift <= strong.interval[1]
    assert strong.lift == pytest.approx(strong.after - strong.before)
    assert strong.rank_after is not None
    assert strong.rank_before is not None
    assert strong.rank_after < strong.rank_before
    assert found.worst.after == max(e.after for e in found.attacked)
    assert {e.num_fakes for e in found.effects} == {9}


def test_the_numbers_are_those_of_a_training_by_hand(found: Audit, folder: Path) -> None:
    """Popularity counts clicks: one fake user adds one to each of its items."""
    data = Dataset(folder / "data")
    counts = data.histories("train").item_counts(NUM_ITEMS).astype(float)
    counts[[39, 40, *np.argsort(-counts)[:6]]] += 9
    known, num_hits = data.histories("train+validation"), 0
    for user in range(1, NUM_USERS + 1):
        unseen = [item for item in range(1, NUM_ITEMS + 1) if item not in known[user]]
        first = sorted(unseen, key=lambda item: (-counts[item], item))[:5]
        num_hits += bool({39, 40} & set(first))
    (outcome,) = (
        one for one in found.outcomes if key_of(one) == ("pop", "planted", "items", "9", 0, None)
    )
    assert outcome.hit_rate == num_hits / NUM_USERS
    given = ensue.load(folder / "knn").evaluate(ks=(5, 10), num_resamples=0).metrics
    clean = [
        one
        for one in found.outcomes
        if (one.victim, one.attack, one.defence) == ("knn", None, None)
    ]
    assert [one.accuracy for one in clean] == [given] * 4  # two targets, two seeds


def test_defences_are_told_with_what_they_cost(found: Audit) -> None:
    for effect in found.effects:
        if effect.defence is None:
            assert effect.left_out is None
            continue
        assert effect.left_out is not None
    plain = {(e.victim, e.attack, e.targets, e.budget): e.lift for e in found.attacked}
    defended = next(e for e in found.effects if e.defence and e.attack == "planted")
    lift = plain[defended.victim, "planted", defended.targets, defended.budget]
    assert defended.kept_lift in (None, defended.lift / lift if lift else None)
    (cap,) = found.protections()
    real = {e.attack_on: e for e in found.attacked if e.interval[0] > 0}
    lifts = [e.lift for e in found.effects if e.defence and e.attack_on in real]
    assert cap.kept == pytest.approx(sum(lifts) / sum(e.lift for e in real.values()))
    assert cap.left_out == {"fake": 0.0, "real": pytest.approx(0.2)}  # 8 of 10 clicks are kept


def test_what_is_stored_is_what_is_returned(found: Audit) -> None:
    stored = json.loads((found.path / "audit.json").read_text())
    assert stored == json.loads(json.dumps(found.to_dict()))
    assert not (found.path / "work").exists()
    assert stored["targets"]["items"][0][0]["item"] == "i39"
    first, second = stored["targets"]["tail"]
    assert first != second
    assert {"attacks", "defences", "effects", "facts", "outcomes", "targets"} == set(stored)


def test_the_page_shows_all_of_it(found: Audit) -> None:
    html = (found.path / "audit.html").read_text()
    assert_self_contained(html)
    assert "<b>shop</b>" not in html
    texts = " ".join(Page(html).texts)
    for text in ("Audit of knn, pop", "<b>shop</b>", "planted", "cap:5%", "mahalanobis-16"):
        assert text in texts
    for title in ("Popular and unpopular", "Would one notice", "Defences", "attacks learned"):
        assert title in texts
    assert "NaN" not in html


def outcome(seed: int, attack: str | None, rate: float, defence: str | None = None) -> Outcome:
    budget = attack and "1%"
    accuracy = {"recall@5": 0.5 if attack is None else 0.4}
    place: Any = (rate, 3.0, 9.0, [])
    return Outcome("a", attack, "tail", budget, seed, defence, *place, accuracy, None, 1.0)


@pytest.mark.parametrize(
    ("kept", "change", "cost", "is_good"),
    [(0.5, -0.02, 0.0, True), (0.51, 0, 0, False), (0.1, -0.03, 0, False), (None, 0, 0, False)],
)
def test_a_good_defence_halves_the_lift_at_little_cost(
    kept: float | None, change: float, cost: float, is_good: bool
) -> None:
    assert Protection("cap", kept, change, cost, {}).is_good == is_good


def test_effects_are_means_over_seeds() -> None:
    outcomes = [outcome(seed, None, 0.0) for seed in (0, 1)]
    outcomes += [outcome(seed, None, 0.25, "cap") for seed in (0, 1)]
    outcomes += [outcome(0, "x", 0.5), outcome(1, "x", 1.0)]
    outcomes += [outcome(0, "x", 0.0, "cap"), outcome(1, "x", 0.75, "cap"), outcome(0, "y", 1.0)]
    rng = np.random.default_rng(0)
    hits = {key_of(o): rng.permutation(100) < 100 * o.hit_rate for o in outcomes}
    plain, capped = summarize(outcomes, hits, {"1%": 7}, (0, 1))  # of y a seed is missing
    assert (plain.before, plain.after, plain.lift) == (0.0, 0.75, 0.75)
    assert plain.of_seeds == (0.5, 1.0)
    assert plain.interval[0] < 0.75 < plain.interval[1]
    assert plain.accuracy == {"recall@5": (0.5, 0.4)}
    assert plain.change("recall@5") == pytest.approx(-0.2)
    assert (capped.before, capped.lift, capped.of_seeds) == (0.25, 0.125, (-0.25, 0.5))
    assert (capped.kept_lift, plain.kept_lift) == (pytest.approx(1 / 6), None)
    assert (capped.accuracy["recall@5"], capped.cost("recall@5")) == ((0.5, 0.4), 0.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"targets": ["i1,x9"]}, UsageError, r"raw ids of items of the dataset; got 'x9'"),
        ({"targets": []}, UsageError, "needs a value of targets; got none"),
        ({"budgets": ["0.1%"]}, UsageError, "1 fake user or more.*; 0.1% comes to 0"),
        ({"budgets": ["lots"]}, UsageError, "a budget must be a percentage.*got 'lots'"),
        ({"budgets": ["5%", 3]}, UsageError, r"needs each budget once; got \[3, 3\]"),
        ({"attacks": ["rondom"]}, UsageError, "no attack 'rondom'. Did you mean 'random'"),
        ({"attacks": ["random"] * 2}, UsageError, "each attack once; got random twice"),
        ({"defences": ["cap", "cap:50%"]}, UsageError, "needs each defence once"),
        ({"seeds": ()}, UsageError, "needs a value of seed; got none"),
        ({"k": 40}, UsageError, "below the 40 items; got 40"),
        ({"order": "first"}, UsageError, "order must be one of spread, last; got 'first'"),
        ({"settings": {"random.click": 3}}, ConfigError, "has a setting 'random.click'"),
        ({"num_targets": 99}, UsageError, "got 99, and tail has"),
    ],
)
def test_bad_arguments_fail_before_any_work(
    options: dict[str, Any], error: type[Exception], message: str, folder: Path, tmp_path: Path
) -> None:
    usual = {"attacks": ["random"], "budgets": [3], "k": 5}
    with pytest.raises(error, match=message):
        audit([folder / "pop"], out=tmp_path / "out", **{**usual, **options})
    assert not (tmp_path / "out").exists()


def test_runs_must_be_of_one_dataset_with_a_test_part(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a run; got none"):
        audit([], out=tmp_path / "out")
    other = write_data(tmp_path / "other", split="none")
    run = ensue.train("popularity", other, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"needs a test part.* has none"):
        run.audit(out=tmp_path / "out")
    both = ensue.train("popularity", folder / "data", out=tmp_path / "both", fit="train+validation")
    with pytest.raises(UsageError, match=r"on the same parts; .* on train, .*train\+validation"):
        audit([folder / "pop", both], out=tmp_path / "out")


@pytest.mark.slow
def test_an_interrupted_audit_goes_on_to_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    """Once between trainings, and once inside one; nothing that is done is done again."""
    run = ensue.train(
        "caser", folder / "data", out=tmp_path / "caser", dim=8, epochs=3, num_targets=1
    )
    asked = {**ASKED, "targets": ["tail"], "budgets": [9], "defences": ["cap"]}
    whole = audit([run], out=tmp_path / "whole", attacks=[Planted()], **asked)
    assert len(whole.outcomes) == 2 * 2 + 2 * 2
    units, calls = audit_units.measure, []

    def interrupt(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return units(*arguments)

    out = tmp_path / "out"
    with patch("ensue.runs.audit.measure", interrupt), pytest.raises(KeyboardInterrupt):
        audit([run], out=out, attacks=[Planted()], **asked)
    with pytest.raises(UsageError, match="Continue it with --resume"):
        audit([run], out=out, attacks=[Planted()], **asked)
    num_epochs = []

    def stop(*arguments: Any, **options: Any) -> Any:
        num_epochs.append(1)
        if len(num_epochs) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    from ensue.runs.item_training import evaluate

    with patch("ensue.runs.item_training.evaluate", stop), pytest.raises(KeyboardInterrupt):
        audit([run], out=out, attacks=[Planted()], resume=True, **asked)
    rest = Planted()
    resumed = audit([run], out=out, attacks=[rest], resume=True, **asked)
    assert rest.calls == 1  # of two seeds
    assert without_seconds(resumed.to_dict()) == without_seconds(whole.to_dict())
    again = audit([run], out=out, attacks=[rest], resume=True, **asked)
    assert (rest.calls, again.to_dict()) == (1, resumed.to_dict())
    with pytest.raises(UsageError, match=r"an audit is resumed .* differs in k"):
        audit([run], out=out, attacks=[rest], resume=True, **{**asked, "k": 6})


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_seconds(own) for name, own in value.items() if name != "seconds"}
    return [without_seconds(own) for own in value] if isinstance(value, list | tuple) else value


@pytest.mark.slow
def test_every_model_can_be_audited(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    runs = []
    for name, method in METHODS.items():
        settings = {} if method.is_fitted else {"epochs": 1}
        runs.append(ensue.train(name, data, out=tmp_path / name, **settings))
    asked = {**ASKED, "targets": ["tail"], "defences": ["cap", "drop:20%@clicks"], "seeds": (0,)}
    found = audit(runs, out=tmp_path / "out", attacks=["bandwagon"], **asked)
    assert [e.victim for e in found.attacked] == list(METHODS)
    assert len(found.effects) == 3 * len(METHODS)


@pytest.mark.slow
def test_fake_users_without_features_or_context_are_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    log = [
        {"user": f"u{u}", "item": f"i{i}", "time": 100 * u + n, "place": f"p{n % 2}"}
        for u in range(30)
        for n, i in enumerate(rng.permutation(15)[:8])
    ]
    pl.DataFrame(log).write_csv(tmp_path / "log.csv")
    users = [{"user": f"u{u}", "age": u, "group": f"g{u % 3}"} for u in range(30)]
    pl.DataFrame(users).write_csv(tmp_path / "users.csv")
    data = ensue.prepare(
        tmp_path / "log.csv", tmp_path / "data", context="place", users=tmp_path / "users.csv",
        features={"age": "numeric", "group": "categorical"},
    )  # fmt: skip
    runs = [
        ensue.train("two_tower", data, out=tmp_path / "two_tower", epochs=1),
        ensue.train("m3", data, out=tmp_path / "m3", epochs=1, context_in=["place"]),
    ]
    assert runs[0].info["features"]["users"]
    asked = {**ASKED, "targets": ["tail"], "defences": [], "seeds": (0,), "k": 3}
    found = audit(runs, out=tmp_path / "out", attacks=["bandwagon"], order="last", **asked)
    assert len(found.effects) == 2


@pytest.mark.slow
def test_the_command_agrees_and_fails_above_a_limit(folder: Path, tmp_path: Path) -> None:
    command = [
        *("audit", str(folder / "knn"), "-o", str(tmp_path / "cli"), "--targets", "i40,i39"),
        *("--budget", "9", "--budget", "5%", "--attack", "bandwagon", "--seeds", "1"),
        *("-k", "5", "--set", "clicks=10"),
    ]
    result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed.pop("path") == str(tmp_path / "cli")
    found = ensue.load(folder / "knn").audit(
        out=tmp_path / "python", targets=["i40,i39"], budgets=[9, "5%"], attacks=["bandwagon"],
        seeds=(0,), k=5, settings={"clicks": 10},
    )  # fmt: skip
    assert "Budgets" in Page((found.path / "audit.html").read_text()).texts
    small, large = sorted(found.effects, key=lambda effect: effect.num_fakes)
    assert (small.num_fakes, large.num_fakes) == (3, 9)
    assert small.after <= large.after
    assert without_seconds(printed) == json.loads(json.dumps(without_seconds(found.to_dict())))
    again = [*command, "--resume", "--fail-above"]
    passed = CliRunner().invoke(app, [*again, "1"], catch_exceptions=False)
    assert passed.exit_code == 0
    assert "audit.html" in passed.stdout
    failed = CliRunner().invoke(app, [*again, "0.1"], catch_exceptions=False)
    assert failed.exit_code == 3
    assert "failed: the hit rate must not be above 0.1; bandwagon takes" in failed.stderr
    with pytest.raises(UsageError, match="--fail-above takes a hit rate from 0 to 1; got 7"):
        CliRunner().invoke(app, [*again, "7"], catch_exceptions=False)


@pytest.mark.slow
def test_a_ranking_run_is_refused(tmp_path: Path) -> None:
    rows = [f"u{n % 7},i{n % 5},{n % 2},{n}" for n in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,click,time", *rows]))
    data = ensue.prepare_ranking(tmp_path / "log.csv", tmp_path / "data", targets="click:binary")
    run = ensue.train_ranker("lr", data, out=tmp_path / "run", epochs=1)
    with pytest.raises(UsageError, match=r"a run is needed; .* holds a ranking run"):
        audit([run.path], out=tmp_path / "out")
