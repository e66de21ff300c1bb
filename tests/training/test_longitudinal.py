"""Pairs in batches: what is drawn, what it comes to, and that it can be interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from ensue.data.longitudinal.measurements import NumberRows
from ensue.data.longitudinal.tables import read_visits
from ensue.data.longitudinal.visits import Pairs, Visits
from ensue.errors import DataError
from ensue.runs.longitudinal_fit import fit
from ensue.runs.longitudinal_settings import settings_of
from ensue.training.longitudinal import PairsConfig, PairsObjective
from ensue.training.loop import TrainingLoop

SETTINGS: dict[str, Any] = {"dim": 2, "hidden": [6], "epochs": 3, "batch_size": 16}


def planted(num_entities: int = 20, num_visits: int = 4) -> Visits:
    """The first of 5 features grows with time; the second is of the entity."""
    rng = np.random.default_rng(0)
    time = np.tile(np.arange(num_visits), num_entities).astype(float)
    entity = np.repeat(np.arange(num_entities), num_visits)
    x = 0.3 * rng.standard_normal((len(time), 5))
    x[:, 0] += time
    x[:, 1] += 3 * rng.standard_normal(num_entities)[entity]
    frame = pl.DataFrame(x, schema=list("abcde")).with_columns(id=entity, t=time)
    return read_visits(frame, entity="id", time="t")


def plan(visits: Visits, method: str, **settings: Any) -> Any:
    return settings_of([method], {**SETTINGS, **settings}, visits.measured)[method]


def test_an_autoencoder_is_what_a_plain_loop_makes_of_it(tmp_path: Path) -> None:
    """Each visit is encoded once a batch, and the weight of the direction is 0: both by hand."""
    visits = planted()
    rows = np.arange(len(visits))
    zero = fit(visits, rows, plan(visits, "lssl", weight=0.0), directory=tmp_path / "lssl")
    plain = fit(visits, rows, plan(visits, "ae"), directory=tmp_path / "ae")
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, zero.model.state_dict()[name])
    settings = plan(visits, "ae")
    torch.manual_seed(0)
    encode, decode = (
        torch.nn.Sequential(torch.nn.Linear(a, 6), torch.nn.ReLU(), torch.nn.Linear(6, b))
        for a, b in ((5, 2), (2, 5))
    )
    assert plain.scale is not None
    x = plain.scale.apply(visits.measured)  # type: ignore[arg-type]
    objective = PairsObjective(
        NumberRows(x), Pairs(visits), settings.pairs, batch_size=16, seed=settings.training.seed
    )
    optimizer = torch.optim.Adam(
        [*encode.parameters(), *decode.parameters()], lr=1e-3, weight_decay=1e-6
    )
    for epoch in (1, 2, 3):
        for (pairs,) in objective.batches(epoch):
            first, second = x[pairs[:, 0]], x[pairs[:, 1]]
            loss = sum(F.mse_loss(decode(encode(part)), part) for part in (first, second))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()
    torch.testing.assert_close(plain.model.encode(x), encode(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["lssl", "simclr"])
def test_an_interrupted_training_goes_on_to_the_same_numbers(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = planted()
    rows = np.arange(len(visits))
    settings = plan(visits, method, checkpoint_seconds=0.0)
    state = torch.get_rng_state()
    whole = fit(visits, rows, settings, directory=tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), state)  # the caller's numbers go on as they would
    step, done = TrainingLoop._step, 0

    def limited(loop: TrainingLoop, *batch: Any) -> Any:
        nonlocal done
        done += 1
        if done == 13:
            raise RuntimeError("the power went")
        return step(loop, *batch)

    monkeypatch.setattr(TrainingLoop, "_step", limited)
    with pytest.raises(RuntimeError, match="power"):
        fit(visits, rows, settings, directory=tmp_path / "broken")
    resumed = fit(visits, rows, settings, directory=tmp_path / "broken", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    again = fit(visits, rows, settings, directory=tmp_path / "broken", resume=True)
    assert again.center == whole.center
    assert torch.equal(again.codes(visits.measured), whole.codes(visits.measured))


def test_pairs_are_drawn_alike_or_entities_are() -> None:
    visits = planted(num_entities=2)
    entities = np.array([0, 0, 1, 1, 1, 1, 1, 1])  # 1 pair and 15
    uneven = Visits(entities, visits.names, np.arange(8.0), visits.measured, visits.columns)
    rows = NumberRows(torch.zeros(8, 1))
    shares = {}
    for balance in ("pairs", "entities"):
        config = PairsConfig(balance=balance)  # type: ignore[arg-type]
        objective = PairsObjective(rows, Pairs(uneven), config, batch_size=5, seed=0)
        drawn = torch.cat([b[0] for epoch in range(1, 61) for b in objective.batches(epoch)])
        shares[balance] = float((drawn[:, 0] < 2).float().mean())
    assert shares["pairs"] == 1 / 16
    assert shares["entities"] == pytest.approx(0.5, abs=0.05)


def test_an_epoch_is_made_again_from_any_batch() -> None:
    visits = planted()
    config = PairsConfig(pairs_per_epoch=50)
    objective = PairsObjective(
        NumberRows(torch.zeros(80, 1)), Pairs(visits), config, batch_size=8, seed=3
    )
    batches = [batch[0].tolist() for batch in objective.batches(2)]
    assert [batch[0].tolist() for batch in objective.batches(2, first=4)] == batches[4:]
    assert sum(map(len, batches)) == 50
    assert batches != [batch[0].tolist() for batch in objective.batches(3)]


def test_there_must_be_pairs() -> None:
    visits = planted(num_visits=1)
    with pytest.raises(DataError, match="two visits that lie min_gap apart; there are none"):
        PairsObjective(
            NumberRows(torch.zeros(20, 1)), Pairs(visits), PairsConfig(), batch_size=8, seed=0
        )


def test_entities_set_aside_choose_the_epoch(tmp_path: Path) -> None:
    visits = planted()
    settings = plan(visits, "lssl", validation_share=0.25, patience=1, epochs=4)
    fit(visits, np.arange(len(visits)), settings, directory=tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert all('"negative_loss"' in line for line in lines)


def test_principal_components_are_those_of_the_covariance(tmp_path: Path) -> None:
    visits = planted()
    settings = settings_of(["pca"], {"dim": 2}, visits.measured)["pca"]
    found = fit(visits, np.arange(len(visits)), settings, directory=tmp_path)
    assert found.scale is not None
    x = found.scale.apply(visits.measured).double()  # type: ignore[arg-type]
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    codes = found.codes(visits.measured).double()
    torch.testing.assert_close(codes.var(dim=0), values.flip(0)[:2], rtol=1e-4, atol=1e-4)
    products = F.cosine_similarity(codes.T, (x @ vectors.flip(1)[:, :2]).T)
    torch.testing.assert_close(products.abs(), torch.ones(2).double(), atol=1e-5, rtol=0)
