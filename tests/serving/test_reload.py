"""Models change while they answer: reloads and items that came after the training."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.serving.client import NUM_ITEMS, Caller, fault, serving

pytestmark = pytest.mark.slow  # seconds of training and opening

NEW: dict[str, Any] = {"id": "n1", "title": "A new thing", "features": {"color": "red"}}
ALL = {"history": ["i1"], "k": 1000, "model": "towers"}


@pytest.fixture
def folder(runs: Path, tmp_path: Path) -> Path:
    """Copies that a test may break."""
    for model in ("m3", "towers"):
        shutil.copytree(runs / model, tmp_path / model)
    return tmp_path


def scale(path: Path, factor: float) -> None:
    """Change the weights of a run."""
    file = path / "model.safetensors"
    tensors = {name: factor * values for name, values in load_file(file).items()}
    save_file(tensors, file)


def reload(caller: Caller, **body: Any) -> Any:
    return caller.ask("POST", "/v1/models/reload", json=body)


def test_a_reload_takes_the_new_weights(folder: Path) -> None:
    with serving(folder, ("m3", "towers")) as caller:
        before = {m: caller.post("/v1/recommend", user="u1", model=m) for m in ("m3", "towers")}
        weights = {model["name"]: model["weights"] for model in caller.get("/v1/models")["models"]}
        assert {m["name"]: m["weights"] for m in reload(caller).json()["models"]} == weights
        scale(folder / "m3", 0.5)
        scale(folder / "towers", 0.5)
        assert caller.post("/v1/recommend", user="u1") == before["m3"]
        (told,) = reload(caller, model="m3").json()["models"]
        assert told["weights"] != weights["m3"]
        assert caller.post("/v1/recommend", user="u1")["scores"] != before["m3"]["scores"]
        assert caller.post("/v1/recommend", user="u1", model="towers") == before["towers"]
        assert len(reload(caller).json()["models"]) == 2
        now = [model["weights"] for model in caller.get("/v1/models")["models"]]
        assert now[1] != weights["towers"]


def poison(path: Path) -> None:
    file = path / "model.safetensors"
    save_file({n: torch.full_like(v, torch.nan) for n, v in load_file(file).items()}, file)


def set_info(path: Path, **values: Any) -> None:
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**info, **values}))


def forget(path: Path, key: str) -> None:
    info = json.loads((path / "run.json").read_text())
    del info[key]
    (path / "run.json").write_text(json.dumps(info))


BREAK: dict[str, Callable[[Path], Any]] = {
    "folder": shutil.rmtree,
    "run.json": lambda path: (path / "run.json").unlink(),
    "no json": lambda path: (path / "run.json").write_text("{"),
    "empty json": lambda path: (path / "run.json").write_text("{}"),
    "list": lambda path: (path / "run.json").write_text("[]"),
    "model": lambda path: set_info(path, model="no such model"),
    "config": lambda path: set_info(path, config={"dim": "wide"}),
    "no dataset": lambda path: forget(path, "dataset"),
    "weights": lambda path: (path / "model.safetensors").unlink(),
    "cut weights": lambda path: (path / "model.safetensors").write_bytes(b"\x10" * 100),
    "nan weights": poison,
    "items": lambda path: (path / "items.arrow").unlink(),
    "cut items": lambda path: (path / "items.arrow").write_bytes(b"ARROW1"),
    "users": lambda path: (path / "users.arrow").write_bytes(b""),
    "histories": lambda path: (path / "histories.arrow").write_bytes(b"\0" * 64),
}


def test_a_broken_run_is_refused_and_the_one_before_goes_on(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "m3", tmp_path / "m3")
    shutil.copytree(runs / "m3", tmp_path / "good")
    with serving(tmp_path, ("good", "m3")) as caller:
        before = caller.post("/v1/recommend", user="u1", model="m3")
        models = caller.get("/v1/models")
        for name, damage in BREAK.items():
            damage(tmp_path / "m3")
            told = fault(reload(caller), 409, "conflict", str(tmp_path))
            assert told.startswith("the run of model m3 cannot be used; the one before it goes on")
            assert caller.post("/v1/recommend", user="u1", model="m3") == before, name
            assert caller.get("/v1/models") == models
            shutil.rmtree(tmp_path / "m3", ignore_errors=True)
            shutil.copytree(runs / "m3", tmp_path / "m3")
        assert reload(caller).status_code == 200


def is_same(answer: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers are of one model, whatever batch they were in."""
    return answer["items"] == other["items"] and answer["scores"] == pytest.approx(other["scores"])


def test_nobody_notices_a_reload(folder: Path) -> None:
    with serving(folder, ("m3",)) as caller:
        answers = []
        for factor in (1.0, 0.5):
            scale(folder / "m3", factor)
            reload(caller)
            answers.append(caller.post("/v1/recommend", user="u1"))
        statuses: list[int] = []

        async def ask(stop: asyncio.Event) -> None:
            while not stop.is_set():
                response = await caller.client.post("/v1/recommend", json={"user": "u1"})
                statuses.append(response.status_code)
                assert any(is_same(response.json(), answer) for answer in answers)

        async def work() -> None:
            stop = asyncio.Event()
            asking = [asyncio.create_task(ask(stop)) for _ in range(8)]
            for factor in (2.0, 0.5, 2.0):
                await asyncio.to_thread(scale, folder / "m3", factor)
                both = [caller.client.post("/v1/models/reload", json={}) for _ in range(2)]
                assert [r.status_code for r in await asyncio.gather(*both)] == [200, 200]
            stop.set()
            await asyncio.gather(*asking)

        caller.run(work())
        assert set(statuses) == {200}
        assert len(statuses) > 16


def test_a_new_item_is_recommended_and_stays(folder: Path) -> None:
    store = f"sqlite:///{folder / 'events.db'}"
    with serving(folder, ("m3", "towers"), store=store) as caller:
        assert "n1" not in caller.recommend(**ALL)
        told = caller.post("/v1/items", items=[NEW, {"id": "n2"}])
        assert told == {"stored": 2, "duplicates": 0, "models": ["towers"]}
        assert {"n1", "n2"} <= set(caller.recommend(**ALL))
        with_it = caller.post("/v1/recommend", **ALL)
        assert caller.post("/v1/items", items=[{"id": "n1"}])["duplicates"] == 1
        assert caller.get("/v1/items", query="new", model="towers")["items"] == [
            {"id": "n1", "title": "A new thing"}
        ]
        similar = caller.get("/v1/items/n1/similar", model="towers", k=1000)["items"]
        assert len(similar) == NUM_ITEMS + 1
        caller.send({"user": "fan", "item": "n1"})
        (event,) = caller.get("/v1/users/fan/history", model="towers")["events"]
        assert (event["item"], event["title"]) == ("n1", "A new thing")
        assert caller.get("/v1/users/fan/history")["events"] == []  # m3 does not know it
        assert caller.get("/v1/models")["models"][1]["items"] == NUM_ITEMS + 2
        assert reload(caller).status_code == 200
        assert caller.post("/v1/recommend", **ALL) == with_it
    with serving(folder, ("m3", "towers"), store=store) as caller:
        assert caller.post("/v1/recommend", **ALL) == with_it
        assert "n1" not in caller.recommend(user="fan", model="towers", k=1000)


def test_of_two_rows_of_an_item_the_first_counts(folder: Path) -> None:
    """As in the store, else a reload would change the answers."""
    with serving(folder, ("towers",)) as caller:
        rows = [{**NEW, "title": "first"}, {**NEW, "title": "second"}]
        assert caller.post("/v1/items", items=rows)["duplicates"] == 1
        found = caller.get("/v1/items", query="first")["items"]
        assert found == [{"id": "n1", "title": "first"}]
        assert reload(caller).status_code == 200
        assert caller.get("/v1/items", query="first")["items"] == found


def test_items_outlive_a_model_that_reads_other_features(folder: Path) -> None:
    with serving(folder, ("towers",)) as caller:
        row = {"size": "large", "color": "red"}
        caller.service.store.add_items([row, {"title": "untitled"}], ["n1", "n2"])
        assert reload(caller).status_code == 200
        assert {"n1", "n2"} <= set(caller.recommend(**ALL))
        told = {"items": [{**NEW, "id": "n3", "features": row}]}
        fault(caller.ask("POST", "/v1/items", json=told), 409, "conflict")


def test_items_need_a_model_that_reads_their_features(folder: Path) -> None:
    with serving(folder, ("m3",)) as caller:
        told = fault(caller.ask("POST", "/v1/items", json={"items": [NEW]}), 409, "conflict")
        assert told == "no model that is served reads features of items."


def test_a_refused_item_is_not_stored(folder: Path) -> None:
    with serving(folder, ("towers",)) as caller:
        wrong = [NEW, {"id": "n2", "features": {"colour": "red"}}]
        fault(caller.ask("POST", "/v1/items", json={"items": wrong}), 409, "conflict")
        assert "n1" not in caller.recommend(**ALL)
        assert caller.service.store.items() == []
