"""The OpenAPI document and the service agree, as far as schemathesis can find out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.forking import Services

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2])
def test_schemathesis_finds_nothing(
    services: Services, runs: Path, tmp_path: Path, seed: int
) -> None:
    """Every check: valid requests are taken, invalid ones refused, answers are as they are told."""
    pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")
    models = [runs / name for name in ("m3", "towers", "popular")]
    served = services.start(*models, store=f"sqlite:///{tmp_path / 'events.db'}", max_history=50)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--checks", "all"]
    command += ["--max-examples", "100", "--seed", str(seed), "--continue-on-failure"]
    command += ["--no-color", "--wait-for-schema", "30", "--warnings", "off"]
    command += [f"http://127.0.0.1:{served.port}/v1/openapi.json"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert served.lives()
    assert "Traceback" not in served.log.read_text()
    served.end()
