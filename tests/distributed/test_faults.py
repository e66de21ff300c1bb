"""Real processes of torchrun that are killed, stopped and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ensue.data.ranking.prepare import prepare_ranking
from ensue.runs.ranker import RankingRun
from tests.distributed.training_runs import FAST, assert_equal_runs, train_on
from tests.runs.test_train_ranker import make_table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds workers in /proc"),
]
SIZE = 3
SETTINGS = {
    **FAST, "dim": 4, "hidden": [8], "batch_size": 16, "epochs": 4, "checkpoint_seconds": 0.0,
    "growth": {"expiry": {"max_age": 9, "every": 2}},
}  # fmt: skip
START_SECONDS = 270.0  # of all processes, on a busy machine


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranking")
    make_table(folder / "rows.csv")
    prepare_ranking(folder / "rows.csv", folder / "data", targets=["click", "watch:regression"])
    return folder / "data"


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RankingRun:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train_on(SIZE, data, out, "des", {"model": "deepfm", **SETTINGS})


def start(data: Path, out: Path, *more: str, restarts: int = 0, **settings: Any) -> Any:
    """Start a training by torchrun; its messages go to OUT.log."""
    given = [f"--set={n}={json.dumps(v)}" for n, v in {**SETTINGS, **settings}.items()]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={SIZE}",
        f"--max-restarts={restarts}", "-m", "ensue", "train", "deepfm", str(data), "-o", str(out),
        "--distributed", "des", *given, *more,
    ]  # fmt: skip
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
        )


def finish(process: subprocess.Popen[bytes], out: Path) -> str:
    """Wait for the end, and return what was printed."""
    process.wait(timeout=START_SECONDS)
    return out.with_suffix(".log").read_text()


def wait_for_steps(process: subprocess.Popen[bytes], out: Path, steps: int) -> None:
    """Wait until a checkpoint of that step, or a later one, is there."""
    file, deadline = out / "checkpoints" / "last.json", time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if file.is_file() and json.loads(file.read_text())["counters"]["steps"] >= steps:
            return
        time.sleep(0.01)
    pytest.fail(f"no checkpoint: {out.with_suffix('.log').read_text()}")


def worker_pid(process: subprocess.Popen[bytes], rank: int) -> int:
    """Return the process of a worker, a child of torchrun."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        if parent == process.pid and b"RANK=%d" % rank in variables:
            return int(folder.name)
    raise LookupError(rank)


def test_a_killed_worker_is_started_again(
    data: Path, tmp_path: Path, undisturbed: RankingRun
) -> None:
    out = tmp_path / "run"
    process = start(data, out, restarts=2)
    wait_for_steps(process, out, 20)
    os.kill(worker_pid(process, 1), signal.SIGKILL)
    text = finish(process, out)
    assert process.returncode == 0, text
    assert_equal_runs(RankingRun(out), undisturbed)
    assert RankingRun(out).info["distributed"]["workers"] == SIZE


def test_a_hung_worker_is_an_error_in_time(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(data, out, timeout_seconds=20.0)
    wait_for_steps(process, out, 5)
    os.kill(worker_pid(process, 2), signal.SIGSTOP)
    text = finish(process, out)
    assert process.returncode != 0
    (message,) = (line for line in text.splitlines() if line.startswith("error"))
    assert "needs all 3 workers; worker 0 waited in vain after 2" in message
    assert not (out / "run.json").exists()


def test_ctrl_c_leaves_a_checkpoint(data: Path, tmp_path: Path, undisturbed: RankingRun) -> None:
    out = tmp_path / "run"
    process = start(data, out)
    wait_for_steps(process, out, 20)
    process.send_signal(signal.SIGINT)
    text = finish(process, out)
    assert process.returncode != 0
    assert text.count("the same command with --resume continues") == 1
    assert not (out / "run.json").exists()
    resumed = start(data, out, "--resume")
    text = finish(resumed, out)
    assert resumed.returncode == 0, text
    assert_equal_runs(RankingRun(out), undisturbed)


def test_what_the_first_worker_refuses_is_said_once(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    started = time.monotonic()
    process = start(data, out, restarts=1)
    text = finish(process, out)
    assert process.returncode != 0
    told = [line for line in text.splitlines() if line.startswith("error")]
    assert len(told) == 2, text  # of the start and of the one restart
    assert set(told) == {told[0]}
    assert "holds no training. Choose another output" in told[0]
    assert time.monotonic() - started < START_SECONDS / 2
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
