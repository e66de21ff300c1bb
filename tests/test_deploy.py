"""The files of deploy/ say what the program takes, and the same as each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from ensue.cli.main import app

DEPLOY = Path(__file__).parents[1] / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "ensue.service").read_text(encoding="utf-8")
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
FILES = {"Dockerfile": DOCKERFILE, "ensue.service": UNIT, "README.md": README}


def serve_options() -> set[str]:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def arguments(name: str) -> list[str]:
    """What `ensue serve` is called with."""
    if name == "Dockerfile":
        command = re.search(r"^CMD \[(.*?)\]$", DOCKERFILE, re.MULTILINE | re.DOTALL)
        assert command
        return re.findall(r'"([^"]+)"', command[1])
    start = re.search(r"^ExecStart=\S+ serve (.*)$", UNIT, re.MULTILINE)
    assert start
    return start[1].split()


@pytest.mark.parametrize("name", ["Dockerfile", "ensue.service"])
def test_options_exist(name: str) -> None:
    given = {word for word in arguments(name) if word.startswith("--")}
    assert given == {"--host", "--port", "--api-key-file", "--store"}
    assert given <= serve_options()


def test_options_of_the_guide_exist() -> None:
    calls = re.findall(r"ensue /srv/ensue/run (--[^`]*)`", README)
    assert calls
    assert {word for call in calls for word in call.split() if word.startswith("--")} <= (
        serve_options()
    )


@pytest.mark.parametrize("name", ["Dockerfile", "ensue.service"])
def test_port_and_paths_agree(name: str) -> None:
    words = arguments(name)
    given = dict(zip(words[1::2], words[2::2], strict=True))
    port = given["--port"]
    assert words[0] == "/srv/ensue/run"
    assert given["--store"] == "sqlite:////var/lib/ensue/events.db"
    assert f"localhost:{port}/v1/models" in README
    if name == "Dockerfile":
        assert f"http://127.0.0.1:{port}/healthz" in DOCKERFILE
        assert f"EXPOSE {port}" in DOCKERFILE
        assert f"127.0.0.1:{port}:{port}" in README
        assert given["--host"] == "0.0.0.0"
        assert f"{given['--api-key-file']}:{given['--api-key-file']}:ro" in README
        assert "VOLUME /var/lib/ensue" in DOCKERFILE
    else:
        assert given["--host"] == "127.0.0.1"
        assert given["--api-key-file"] == "%d/keys"
        assert "LoadCredential=keys:/etc/ensue/keys" in UNIT
        assert "StateDirectory=ensue\n" in UNIT


def test_nobody_runs_as_root() -> None:
    assert DOCKERFILE.index("USER ensue") < DOCKERFILE.index("ENTRYPOINT")
    assert "DynamicUser=yes" in UNIT


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "ensue.service"
    unit.write_text(UNIT.replace("/opt/ensue/bin/ensue", sys.executable), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "ensue.service" in line]
    assert (done.returncode, told) == (0, [])
