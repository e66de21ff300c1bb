"""`ensue fetch` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ensue.cli.fetch import fetch
from ensue.data.sources import SOURCES
from ensue.errors import UsageError
from tests.data.sources.server import FileServer
from tests.data.sources.test_fetch import ARCHIVE, ZIP, bsd_sum

app = typer.Typer()
app.command()(fetch)
runner = CliRunner()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_it_ends_with_the_next_command_on_standard_output(tmp_path: Path) -> None:
    with FileServer({ZIP: ARCHIVE, f"{ZIP}.md5": bsd_sum(ARCHIVE)}).running() as server:
        arguments = ["ml-100k", "-o", str(tmp_path), "--base-url", server.url]
        result = runner.invoke(app, arguments)
        again = runner.invoke(app, arguments)
    command = f"ensue prepare {tmp_path}/ml-100k/u.data -o {tmp_path}/ml-100k-dataset"
    assert result.exit_code == 0
    assert result.stdout == f"ml-100k is in {tmp_path}/ml-100k. Next:\n  {command}\n"
    assert "Terms: " in result.stderr
    assert f"as at {server.url}/ml-100k.zip.md5" in result.stderr
    assert again.stdout.startswith(f"ml-100k was there already, in {tmp_path}/ml-100k.")


def test_json_is_one_object(tmp_path: Path) -> None:
    with FileServer({ZIP: ARCHIVE, f"{ZIP}.md5": bsd_sum(ARCHIVE)}).running() as server:
        arguments = ["ml-100k", "-o", str(tmp_path), "--base-url", server.url, "--json"]
        result = runner.invoke(app, arguments)
    value = json.loads(result.stdout)
    assert value["name"] == "ml-100k"
    assert value["path"] == str(tmp_path / "ml-100k")
    assert value["checksum"]["algorithm"] == "md5"
    assert value["is_new"] is True


def test_list_shows_every_source_with_its_license() -> None:
    table = runner.invoke(app, ["--list"]).stdout
    for source in SOURCES.values():
        assert source.name in table
        assert source.license in table
    listed = json.loads(runner.invoke(app, ["--list", "--json"]).stdout)["sources"]
    assert [source["name"] for source in listed] == list(SOURCES)


def test_a_name_is_needed() -> None:
    result = runner.invoke(app, [])
    assert isinstance(result.exception, UsageError)
    assert "known: ml-100k, ml-1m" in str(result.exception)
