"""Ablations: which variants there are, and that the table says what the runs say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.data.dataset import Dataset
from ensue.data.prepare import prepare
from ensue.errors import ConfigError, UsageError
from ensue.evaluation.significance import sign_flip_p_values
from ensue.models.space import Changes
from ensue.runs import ablate as module
from ensue.runs.ablate import Ablation, ablate
from ensue.runs.ablation_page import build_ablation_html
from ensue.runs.ablation_variants import make_variants, parse_variations
from ensue.runs.run import load
from tests.cli.test_end_to_end import call
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

FAST = {"epochs": 2, "batch_size": 64, "weight_decay": 0.0, "dim": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users of 5 and of 22 rows: they have one target, or four."""
    rng = np.random.default_rng(0)
    histories = [(rng.permutation(30)[: 5 if user % 2 else 22] + 1).tolist() for user in range(40)]
    return make_dataset(
        tmp_path_factory.mktemp("data") / "dataset", histories, num_items=30, split="ratio"
    )


@pytest.fixture(scope="module")
def found(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    out = tmp_path_factory.mktemp("ablation") / "out"
    metrics = ("ndcg@10", "pap@3")
    vary = {"dim": (2, 8)}
    return ablate("bpr", dataset, out=out, vary=vary, seeds=2, metrics=metrics, settings=FAST)


@pytest.mark.slow
def test_the_table_says_what_the_runs_say(found: Ablation, dataset: Dataset) -> None:
    full, small = found.variants  # dim=8 is the full model
    assert (full.name, small.name, small.changes) == ("full", "dim=2", {"dim": 2})
    users = {}
    for number, variant in enumerate(found.variants):
        (folder,) = found.path.glob(f"runs/{number:02d}-*")
        runs = [load(folder / f"seed-{seed}") for seed in range(2)]
        assert [run.info["training"]["seed"] for run in runs] == [0, 1]
        assert [run.info["config"]["dim"] for run in runs] == [(8, 2)[number]] * 2
        evaluations = [run.evaluate(dataset, ks=(1, 3, 5, 10, 20)) for run in runs]
        for metric in ("ndcg@10", "pap@3"):
            values = [one.metrics[metric] for one in evaluations]
            assert variant.values[metric] == pytest.approx(values)
            assert variant.means[metric] == pytest.approx(np.mean(values))
            assert variant.deviations[metric] == pytest.approx(np.std(values, ddof=1))
        users[variant.name] = sum(one.users["pap@3"].to_numpy() for one in evaluations) / 2
        sizes = evaluations[0].users["num_targets"].to_numpy()
        slices = variant.user_slices
        assert slices["targets<=3"]["users"] == (sizes <= 3).sum()
        own = users[variant.name][sizes > 3].mean()
        assert slices["targets>3"]["metrics"]["pap@3"] == pytest.approx(own)
    difference = users["dim=2"] - users["full"]
    told = small.differences["pap@3"]
    assert told["mean"] == pytest.approx(difference.mean())
    assert told["relative"] == pytest.approx(difference.mean() / users["full"].mean())
    p = sign_flip_p_values(difference[:, None], 10_000, np.random.default_rng(1))[0]
    assert told["p"] == pytest.approx(p, abs=0.03)
    assert told["p"] <= told["p_corrected"]
    pairs = zip(small.values["pap@3"], full.values["pap@3"], strict=True)
    assert told["lower_seeds"] == sum(a < b for a, b in pairs)
    assert full.differences == {}


@pytest.mark.slow
def test_the_files(found: Ablation) -> None:
    assert json.loads((found.path / "ablation.json").read_text()) == found.info
    html = (found.path / "ablation.html").read_text(encoding="utf-8")
    assert_self_contained(html)
    texts = Page(html).texts
    for text in ("What each part is worth: bpr on tiny", "dim=2", "dim = 2"):
        assert text in texts
    assert "pap@1, difference to full" in texts
    without = [{**one, "user_slices": {}} for one in found.info["variants"]]
    texts = Page(build_ablation_html({**found.info, "variants": without})).texts
    assert "Users with few and many targets" not in texts


@pytest.mark.slow
def test_it_goes_on_with_what_is_missing_alone(
    found: Ablation, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"vary": {"dim": (2, 8)}, "seeds": 2, "metrics": ("ndcg@10", "pap@3")}
    with pytest.raises(UsageError, match="Continue it with --resume"):
        ablate("bpr", dataset, out=found.path, settings=FAST, **options)
    with pytest.raises(UsageError, match="differs in seeds"):
        ablate(
            "bpr", dataset, out=found.path, settings=FAST, **{**options, "seeds": 3}, resume=True
        )
    monkeypatch.setattr(module, "train_with", None)  # would be an error to call
    again = ablate("bpr", dataset, out=found.path, settings=FAST, **options, resume=True)
    assert again.info == found.info


@pytest.mark.slow
def test_a_run_is_the_full_model_and_the_command_line_says_the_same(
    found: Ablation, dataset: Dataset, tmp_path: Path
) -> None:
    run = next(found.path.glob("runs/00-full/seed-0"))
    options = ["--vary", "dim=2,8", "--seeds", 2, "--metric", "ndcg@10", "--metric", "pap@3"]
    command = ["ablate", run, dataset.path, "-o", tmp_path / "out", *options]
    shown = call(*command, "--json")
    for one, other in zip(shown["variants"], found.info["variants"], strict=True):
        assert one["values"] == other["values"]
    table = CliRunner().invoke(app, [*map(str, command), "--resume"]).stdout
    mean = found.variants[1].means["pap@3"]
    assert f"dim=2 {mean:.4f}" in " ".join(table.split())
    assert "targets>3" in table
    with pytest.raises(UsageError, match="leave --preset and --set"):
        ablate(run, dataset, out=tmp_path / "other", settings={"dim": 4})


def test_models_computed_in_one_go_are_trained_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_plots", lambda: False)  # the page takes longest
    found = ablate("ease", dataset, out=tmp_path / "out", vary={"l2": (1.0, 1000.0)})
    assert found.info["seeds"] == [0]
    assert [one.name for one in found.variants] == ["full", "l2=1.0", "l2=1000.0"]
    assert found.variants[1].deviations["ndcg@10"] is None
    with pytest.raises(UsageError, match="leave seeds out"):
        ablate("ease", dataset, out=tmp_path / "two", vary={"l2": (1.0,)}, seeds=2)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("rich")
    (folder / "log.csv").write_text("user,item,time\n" + "".join(f"u,i{n},{n}\n" for n in range(9)))
    rows = "".join(f"i{n},{'rb'[n % 2]},{'xyz'[n % 3]}\n" for n in range(9))
    (folder / "items.csv").write_text("item,color,size\n" + rows)
    return prepare(folder / "log.csv", folder / "data", items=folder / "items.csv")


def changes(model: str, dataset: Dataset, settings: dict[str, Any], wanted: Changes) -> Any:
    return {one.name: one.changes for one in make_variants(model, settings, wanted, dataset)}


def test_each_part_of_a_list_is_left_out_in_turn(rich: Dataset) -> None:
    each = {
        "full": {},
        "without item_features.color": {"item_features": ["size"]},
        "without item_features.size": {"item_features": ["color"]},
    }
    assert changes("two_tower", rich, {}, Changes(("item_features.*",))) == each
    named = Changes(("item_features.size", "item_features+logq"))
    assert changes("two_tower", rich, {"item_features": ["size"]}, named) == {
        "full": {},
        "without item_features.size": {"item_features": []},
        "without item_features+logq": {"item_features": [], "logq": "none"},
    }
    with pytest.raises(UsageError, match="no 'colour' among its item_features"):
        changes("two_tower", rich, {}, Changes(("item_features.colour",)))
    with pytest.raises(UsageError, match="a setting that is a list; dim is 64"):
        changes("two_tower", rich, {}, Changes(("dim.*",)))


def test_the_models_own_changes_are_used_where_none_are_named(rich: Dataset) -> None:
    declared = module.get_method("two_tower").changes
    assert "without item_features.color" in changes("two_tower", rich, {}, declared)
    parts = changes("m3", rich, {}, module.get_method("m3").changes)
    assert list(parts)[:3] == ["full", "parts=ts", "parts=tl"]
    assert changes(
        "m3", rich, {"parts": "ts"}, replace(declared, without=(), vary={"parts": ("t",)})
    )
    with pytest.raises(UsageError, match="needs something to change in bpr"):
        changes("bpr", rich, {}, module.get_method("bpr").changes)


def test_a_loss_takes_the_place_of_papk(rich: Dataset) -> None:
    wanted = Changes(vary={"loss": ("papk", "bce")})
    plain = make_variants("neumf", {}, Changes(vary={"loss": ("papk",)}), rich)
    assert plain[1].settings == {"loss": "papk"}
    by_papk = make_variants(
        "two_tower", {"papk": {"k": 3}}, Changes(vary={"logq": ("none",)}), rich
    )
    assert by_papk[1].settings == {"papk": {"k": 3}, "logq": "none"}
    with pytest.raises(ConfigError):
        make_variants("two_tower", {"papk": {"k": 3}}, wanted, rich)


def test_what_cannot_be_varied_is_refused(rich: Dataset) -> None:
    for wanted, message in [
        (Changes(("nothing",)), "has no setting 'nothing'"),
        (Changes(("query",)), "not clear what a model without 'query' is"),
        (Changes(vary={"dim": (0,)}), "dim"),
    ]:
        with pytest.raises((UsageError, ConfigError), match=message):
            changes("two_tower", rich, {}, wanted)
    for text in ("dim=1..3", "dim", "=3"):
        with pytest.raises(UsageError):
            parse_variations([text])
    vary: dict[str, Any] = {"vary": {"dim": (3,)}, "out": "unused"}
    for metrics in (("ndgc@10",), ("map@0",), ("ndcg",), ()):
        with pytest.raises(UsageError, match="metric"):
            ablate("bpr", rich, **vary, metrics=metrics)
    with pytest.raises(UsageError, match="has none for 'users'"):
        ablate("bpr", rich, **vary, split="users")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave seed out"):
        ablate("bpr", rich, out="unused", vary={"dim": (3,)}, settings={"seed": 1})
