"""One answer whichever way it is asked for: Python, the command line, a batch file, HTTP."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.runs.run import Run
from tests.serving.forking import Services, ask_on

pytestmark = pytest.mark.slow
NUM_USERS, NUM_ITEMS, K = 1000, 300, 10


@pytest.fixture(scope="module", params=["sasrec", "caser"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("same")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 100 * n)
        for user in range(NUM_USERS)
        for n, item in enumerate(rng.permutation(NUM_ITEMS)[: rng.integers(4, 20)])
    ]
    log = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    log.write_csv(folder / "log.csv")
    data = ensue.prepare(folder / "log.csv", folder / "data")
    return ensue.train(request.param, data, out=folder / "run", dim=16, epochs=1)


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The lists are equal; scores may differ in the last digit, as sizes of batches do."""
    assert [answer["user"] for answer in one] == [answer["user"] for answer in other]
    assert [answer["items"] for answer in one] == [answer["items"] for answer in other]
    np.testing.assert_allclose(
        [answer["scores"] for answer in one],
        [answer["scores"] for answer in other],
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_thousand_users(run: Run, services: Services, tmp_path: Path) -> None:
    users = [f"u{n}" for n in range(NUM_USERS)]
    expected = [answer.to_dict() for answer in run.recommend(users=users, k=K)]
    served = services.start(run.path, store=f"sqlite:///{tmp_path / 'events.db'}")

    def over_http(some: list[str]) -> list[dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        with closing(connection):
            return [
                ask_on(connection, "POST", "/v1/recommend", {"user": user, "k": K})[2]
                for user in some
            ]

    with ThreadPoolExecutor(4) as threads:  # together, hence in batches of many sizes
        parts = [users[start : start + 250] for start in range(0, NUM_USERS, 250)]
        answers = [answer for part in threads.map(over_http, parts) for answer in part]
    assert_same(answers, expected)
    assert_same(over_http(users[:50]), expected[:50])
    served.end()

    def call(*options: str) -> Any:
        command = ["recommend", str(run.path), "-k", str(K), "--json", *options]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    given = [option for user in users for option in ("--user", user)]
    assert_same(call(*given)["requests"], expected)
    (tmp_path / "users.jsonl").write_text("".join(f'{{"user": "{user}"}}\n' for user in users))
    call("--batch", str(tmp_path / "users.jsonl"), "-o", str(tmp_path / "answers.jsonl"))
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert_same([json.loads(line) for line in lines], expected)
    pl.DataFrame({"user": users}).write_parquet(tmp_path / "users.parquet")
    call("--batch", str(tmp_path / "users.parquet"), "-o", str(tmp_path / "answers.parquet"))
    assert_same(pl.read_parquet(tmp_path / "answers.parquet").to_dicts(), expected)
