from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.data.longitudinal.history_windows import history_windows
from ensue.data.longitudinal.images import read_images
from ensue.data.longitudinal.measurements import ItemBags, Numbers
from ensue.data.longitudinal.tables import read_visits
from ensue.data.longitudinal.visits import Visits
from ensue.errors import ConfigError, DataError, ExtraError, UsageError
from ensue.runs.longitudinal import longitudinal
from ensue.runs.longitudinal_fit import build_model
from ensue.runs.longitudinal_result import Longitudinal, load_longitudinal
from ensue.runs.longitudinal_traversal import decoded_change
from ensue.training.loop import TrainingLoop
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

SETTINGS: dict[str, Any] = {
    "dim": 2,
    "hidden": [8],
    "epochs": 12,
    "learning_rate": 0.01,
    "weight": 0.3,
}


def planted_table(num_entities: int = 40, num_visits: int = 4) -> pl.DataFrame:
    """x0 and x1 grow with time, twice as fast in group "fast"; x2 and x3 are of the entity."""
    rng = np.random.default_rng(0)
    entity = np.repeat(np.arange(num_entities), num_visits)
    time = np.tile(np.arange(num_visits), num_entities) + 0.1 * rng.random(len(entity))
    is_fast = entity % 2 == 1
    start = rng.standard_normal(num_entities)[entity]
    age = start + (0.5 + 0.5 * is_fast) * time
    own = rng.standard_normal((num_entities, 2))[entity]
    x = np.column_stack([age, age, own]) + 0.1 * rng.standard_normal((len(entity), 4))
    return pl.DataFrame(x, schema=[f"x{number}" for number in range(4)]).with_columns(
        who=pl.Series([f"e{number}" for number in entity]),
        t=time,
        age=age,
        speed=pl.Series(np.where(is_fast, "fast", "slow")),
        site=pl.Series(np.where(entity % 3 == 0, "a", "b")),
    )


def planted_visits() -> Visits:
    return read_visits(planted_table(), entity="who", time="t", others=["age", "speed", "site"])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Longitudinal:
    return longitudinal(
        planted_visits(),
        out=tmp_path_factory.mktemp("runs") / "out",
        methods=["lssl", "pca"],
        group="speed",
        against=["age", "site"],
        probes=["speed", "age"],
        folds=2,
        settings=SETTINGS,
    )


def test_the_planted_direction_is_found(found: Longitudinal) -> None:
    lssl, pca = found.methods
    assert lssl.order.ordered > 0.9
    assert lssl.order.cosine > 0.7
    age = lssl.agreements["age"]
    assert age.spearman is not None
    assert age.interval is not None
    assert age.spearman > 0.85
    assert age.interval[0] <= age.spearman <= age.interval[1]
    assert lssl.agreements["site"].r2 < 0.2
    assert pca.error is not None
    slow = {group.group: group for group in lssl.slopes.groups}
    assert slow["fast"].slope / slow["slow"].slope == pytest.approx(2, rel=0.35)
    assert lssl.slopes.groups[1].p_value < 1e-6
    probes = {(probe.column, probe.head): probe.metrics for probe in lssl.probes}
    predicted = probes["age", "time coordinate"]["r2"]
    assert predicted is not None
    assert predicted > 0.8


def test_tables_of_the_result(found: Longitudinal) -> None:
    rows = found.coordinates
    assert rows.columns == ["entity", "time", "time_coordinate", "held_out_coordinate", "rest"]
    assert len(rows) == 160
    codes = found.fitted.codes(planted_visits().measured)
    along, rest = found.fitted.split(codes)
    np.testing.assert_allclose(rows["time_coordinate"], along[:, 0], atol=1e-5)
    direction = found.fitted.model.directions
    assert (torch.from_numpy(rows["rest"].to_numpy().copy()) @ direction.T).abs().max() < 1e-5
    raw = along[:, :1] * found.fitted.spread + found.fitted.center
    torch.testing.assert_close(raw * direction + rest, codes, atol=1e-5, rtol=1e-5)
    slopes = found.slopes
    assert slopes.columns == ["entity", "visits", "group", "intercept", "slope"]
    assert slopes["visits"].to_list() == [4] * 40
    means = slopes.group_by("group").agg(pl.col("slope").mean()).sort("group")["slope"]
    assert means[0] > 1.5 * means[1]
    placed = found.place(planted_visits().measured)
    np.testing.assert_allclose(placed["time_coordinate"], rows["time_coordinate"], atol=1e-6)
    with pytest.raises(UsageError, match=r"as those of the training, \{'shape': \[4\]\}"):
        found.place(Numbers(np.zeros((2, 3), np.float32)))


def test_the_page_and_the_stored_figures(found: Longitudinal) -> None:
    html = (found.path / "longitudinal.html").read_text()
    assert_self_contained(html)
    texts = Page(html).texts
    for wanted in ("A direction of time", "Slopes by group", "fast", "x0", "Spearman with age"):
        assert wanted in texts, wanted
    stored = json.loads((found.path / "longitudinal.json").read_text())
    assert load_longitudinal(found.path).to_dict() == stored
    assert np.load(found.path / "traversal.npy").shape == (7, 4)
    names = {path.name for path in found.path.iterdir()}
    assert len(names) == 7
    assert not found.path.with_name("out.parts").exists()


def test_the_decoded_change_is_the_derivative(found: Longitudinal) -> None:
    fitted = found.fitted
    codes = fitted.codes(planted_visits().measured)[:20]
    change = decoded_change(fitted, codes)
    step = (fitted.spread * fitted.model.directions).expand_as(codes)
    _, expected = torch.autograd.functional.jvp(fitted.model.body.decode, codes, step.contiguous())
    close = (change - expected).abs() <= 1e-3 * expected.abs().amax()
    assert close.float().mean() > 0.9  # a step may cross a bend of a ReLU


@pytest.mark.slow
def test_an_interrupted_search_goes_on(
    found: Longitudinal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments: dict[str, Any] = {
        "methods": ["lssl", "pca"],
        "group": "speed",
        "folds": 2,
        "settings": SETTINGS,
    }
    run, done = TrainingLoop.run, 0

    def limited(loop: TrainingLoop, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return run(loop, **options)

    monkeypatch.setattr(TrainingLoop, "run", limited)
    with pytest.raises(KeyboardInterrupt):
        longitudinal(planted_visits(), out=out, **arguments)
    assert not out.exists()
    with pytest.raises(UsageError, match="Continue it with --resume"):
        longitudinal(planted_visits(), out=out, **arguments)
    again = longitudinal(planted_visits(), out=out, resume=True, **arguments)
    assert done == 4  # two were finished
    assert again.methods[0].order == found.methods[0].order
    assert again.coordinates.equals(found.coordinates)


def test_without_folds_the_page_says_so(tmp_path: Path) -> None:
    settings = {"dim": 2, "directions": 2}
    found = longitudinal(
        planted_visits(), out=tmp_path / "out", methods=["pca"], folds=0, settings=settings
    )
    assert "There are no folds" in (found.path / "longitudinal.html").read_text()
    rows = found.coordinates
    assert rows["held_out_coordinate"].null_count() == len(rows)
    assert "coordinate_2" in rows.columns
    assert float(np.abs(rows["rest"].to_numpy()).max()) < 1e-5  # two of two directions


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"methods": ["lsl"]}, UsageError, "method 'lsl' is unknown. Did you mean 'lssl'"),
        ({"methods": ["pca", "pca"]}, UsageError, "at least one method is needed, each once"),
        ({"folds": 1}, UsageError, "folds must be 0, or 2 and more; got 1"),
        ({"against": ["agee"]}, DataError, "has no column 'agee'. Did you mean 'age'"),
        ({"group": "age"}, UsageError, "an entity must be in one group; 'e0' is in"),
        ({"settings": {"weigth": 1}}, ConfigError, "no setting 'weigth'. Did you mean 'weight'"),
        ({"settings": {"noise": 1}}, ConfigError, "noise is read by simclr only; got methods lssl"),
        ({"settings": {"patience": 3}}, ConfigError, "patience is read with validation_share"),
        ({"settings": {"min_gap": 50}}, DataError, "there are none at min_gap=50"),
    ],
)
def test_arguments_without_a_meaning(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        longitudinal(planted_visits(), out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    planted_table().write_csv(tmp_path / "t.csv")
    common = ["longitudinal", str(tmp_path / "t.csv"), "--entity", "who", "--time", "t"]
    common += ["--against", "age", "--group", "speed", "--method", "pca", "--folds", "2"]
    common += ["--set", "dim=2", "--features", "x0,x1,x2", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*common, "--json"])
    assert result.exception is None
    told = json.loads(result.stdout)
    assert told["measured"] == {"features": ["x0", "x1", "x2"]}
    assert told["methods"][0]["agreements"]["age"]["spearman"] > 0.9
    shown = CliRunner().invoke(app, [*common, "--overwrite"])
    assert "with age" in shown.stdout
    assert "coordinates.parquet" in shown.stdout
    refused = CliRunner().invoke(app, [*common, "--window", "3", "--overwrite"])
    assert "--window is for a dataset" in str(refused.exception)


def test_images_of_files_and_of_one_array_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((6, 5, 4)).astype(np.float32)
    frame = pl.DataFrame(
        {"who": ["b", "b", "a", "a", "c", "c"], "t": [2, 1, 1, 2, 1, 2], "sex": list("ffmmff")}
    ).with_columns(file=pl.Series([f"{number}.npy" for number in range(6)]))
    for number, image in enumerate(images):
        np.save(tmp_path / f"{number}.npy", image)
    np.savez(tmp_path / "all.npz", images=images)
    frame.write_csv(tmp_path / "t.csv")
    read = [
        read_images(tmp_path / "t.csv", source, entity="who", time="t")
        for source in ("file", tmp_path / "all.npz")
    ]
    for visits in read:
        assert isinstance(visits.measured, Numbers)
        np.testing.assert_array_equal(visits.measured.values[:, 0], images[[1, 0, 2, 3, 4, 5]])
        assert visits.columns["sex"].to_list() == list("ffmmff")


def test_bad_images(tmp_path: Path) -> None:
    frame = pl.DataFrame({"who": [1, 1], "t": [1, 2], "file": ["a.npy", "b.npy"]})
    frame.write_csv(tmp_path / "t.csv")
    np.save(tmp_path / "a.npy", np.zeros((3, 3)))
    np.save(tmp_path / "b.npy", np.zeros((3, 4)))

    def read(images: str | Path) -> Visits:
        return read_images(tmp_path / "t.csv", images, entity="who", time="t")

    with pytest.raises(DataError, match=r"of one shape; b.npy is \[3, 4\] and a.npy is \[3, 3\]"):
        read("file")
    with pytest.raises(DataError, match=r"for each of the 2 rows of .*; .*a.npy is \[3, 3\]"):
        read(tmp_path / "a.npy")
    with pytest.raises(UsageError, match=r"images are a column .* or a file \.npy or .* got 'x'"):
        read("x")
    (tmp_path / "b.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.npy must be an array of numpy"):
        read("file")


def test_nifti_needs_its_extra_and_is_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({"who": [1, 1], "t": [1, 2], "file": ["a.nii.gz", "a.nii.gz"]})
    frame.write_csv(tmp_path / "t.csv")
    try:
        import nibabel
    except ImportError:
        with pytest.raises(ExtraError, match=r"pip install 'ensue\[images\]'"):
            read_images(tmp_path / "t.csv", "file", entity="who", time="t")
        return
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    visits = read_images(tmp_path / "t.csv", "file", entity="who", time="t")
    assert isinstance(visits.measured, Numbers)
    np.testing.assert_array_equal(visits.measured.values[0, 0], volume)


def test_windows_of_histories(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", [[1, 2, 1, 3, 2], [3, 1, 1], [2]])
    visits = history_windows(dataset, length=2, min_count=1)
    assert isinstance(visits.measured, ItemBags)
    assert visits.names.to_list() == ["u1", "u2"]
    assert visits.entities.tolist() == [0, 0, 1]
    assert visits.measured.items.tolist() == [1, 2, 1, 3, 3, 1]
    assert visits.measured.names == ("i1", "i2", "i3")
    rare = history_windows(dataset, length=2, min_count=3)
    assert isinstance(rare.measured, ItemBags)
    assert rare.measured.items.tolist() == [1, 2, 1, 2, 1, 1]  # item 3 occurs twice
    assert rare.measured.names == ("i1", "i2")
    with pytest.raises(DataError, match="users with 20 interactions, two windows of 10"):
        history_windows(dataset, length=10)


@pytest.mark.slow
def test_volumes_from_end_to_end(tmp_path: Path) -> None:
    """A ball that grows, at a place that each entity has of its own."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 10)] * 3, indexing="ij"))
    rows, volumes = [], []
    for entity in range(24):
        center = 0.3 * rng.standard_normal(3)
        for visit in range(3):
            radius = 0.3 + 0.15 * visit
            ball = np.square(grid - center[:, None, None, None]).sum(axis=0) < radius**2
            volumes.append(ball + 0.1 * rng.standard_normal(ball.shape))
            rows.append({"who": entity, "t": visit, "radius": radius})
    np.save(tmp_path / "v.npy", np.array(volumes, np.float32))
    visits = read_images(pl.DataFrame(rows), tmp_path / "v.npy", entity="who", time="t")
    found = ensue.longitudinal(
        visits,
        out=tmp_path / "out",
        methods=["lssl", "simclr"],
        against=["radius"],
        probes=["radius"],
        fine_tune=True,
        folds=2,
        settings={"dim": 4, "hidden": [], "channels": [8, 8], "epochs": 20, "batch_size": 16},
    )
    lssl = found.methods[0]
    assert lssl.agreements["radius"].spearman is not None
    assert lssl.agreements["radius"].spearman > 0.6  # 36 visits a fold, places differ
    assert lssl.order.ordered > 0.9
    assert np.load(found.path / "traversal.npy").shape == (7, 1, 10, 10, 10)
    assert_self_contained((found.path / "longitudinal.html").read_text())
    heads = {probe.head for probe in lssl.probes}
    assert heads == {"codes", "time coordinate", "fine-tuned", "from new"}


@pytest.mark.slow
def test_histories_from_end_to_end(tmp_path: Path) -> None:
    """Users move from items 1..20 to items 21..40, each among those of a taste."""
    rng = np.random.default_rng(0)
    histories = []
    for _ in range(80):
        taste = rng.integers(4)
        late = rng.random(60) < np.linspace(0, 1, 60)
        histories.append((1 + 5 * taste + rng.integers(5, size=60) + 20 * late).tolist())
    dataset = make_dataset(tmp_path / "data", histories)
    command = ["longitudinal", str(dataset.path), "-o", str(tmp_path / "out"), "--window", "10"]
    command += ["--against", "calendar_time", "--folds", "2", "--set", "epochs=40"]
    command += ["--set", "learning_rate=0.01", "--method", "lssl", "--method", "ae", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exception is None
    told = json.loads(result.stdout)
    lssl, plain = told["methods"]
    assert lssl["order"]["ordered"] > max(0.85, plain["order"]["ordered"])
    assert lssl["agreements"]["calendar_time"]["spearman"] > 0.1  # tastes lie along it, too
    assert "Items that rise" in (tmp_path / "out" / "longitudinal.html").read_text()


def test_a_model_is_made_for_what_was_measured(found: Longitudinal) -> None:
    model = build_model(found.fitted.model.config, {"num_items": 7})
    assert model.measured == {"num_items": 7}
    assert os.path.getsize(found.path / "fitted.safetensors") < 20_000
