"""How the command ends: exit codes, and what goes to which stream."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ensue import __version__
from ensue.cli import main as cli
from ensue.errors import DataError

VERBS = (
    "prepare",
    "fetch",
    "profile",
    "train",
    "tune",
    "distill",
    "tradeoff",
    "ablate",
    "plan",
    "evaluate",
    "compare",
    "index",
    "add-items",
    "similar",
    "recommend",
    "report",
    "demo",
)
ENSUE = [sys.executable, "-m", "ensue.cli.main"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ENSUE, *arguments], capture_output=True, text=True)


@pytest.fixture
def ends_with(monkeypatch, capsys):
    """Return (exit code, stdout, stderr) of a command line whose verb raises `error`."""

    def end(error: BaseException) -> tuple[int, str, str]:
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        with pytest.raises(SystemExit) as ending:
            cli.main()
        captured = capsys.readouterr()
        return ending.value.code, captured.out, captured.err

    return end


def test_version():
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"ensue {__version__}\n")


def test_help_names_every_verb_and_loads_nothing_heavy():
    code = (
        "import sys; from ensue.cli.main import main; sys.argv = ['ensue', '--help']\n"
        "try: main()\n"
        "finally: print(*({'torch', 'polars', 'numba', 'numpy'} & set(sys.modules)), 'loaded')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == "loaded"
    assert [verb for verb in VERBS if f" {verb} " not in result.stdout] == []


def test_help_is_quick():
    code = (
        "import sys; from ensue.cli.main import main; sys.argv = ['ensue', '--help']\n"
        "try: main()\n"
        "finally: print(sum(name.startswith('ensue.') for name in sys.modules), len(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ours, every = map(int, result.stdout.splitlines()[-1].split())
    # A start takes its time for modules; unlike seconds, they are the same on every machine.
    assert (ours < 40, every < 450) == (True, True)


@pytest.mark.parametrize("arguments", [["prepear"], ["--jsno"], ["prepare", "--no-such-option"]])
def test_wrong_use_ends_with_2_and_an_empty_output(arguments):
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr


def test_a_users_error_is_one_line_on_standard_error(ends_with):
    assert ends_with(DataError("x.csv is empty.")) == (2, "", "error: x.csv is empty.\n")


def test_a_full_disk_is_one_line(ends_with):
    code, out, err = ends_with(OSError(28, "No space left on device", "/data/x.arrow"))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "No space left on device: '/data/x.arrow'" in err


@pytest.mark.parametrize("error", [ZeroDivisionError("1/0"), FileNotFoundError(2, "gone")])
def test_our_fault_shows_the_trace_and_asks_for_a_report(ends_with, error):
    code, out, err = ends_with(error)
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert f"failed with {type(error).__name__}" in err
    assert "please report it" in err


VERB = """
import sys, time
import typer
from ensue.cli import main as cli

@cli.app.command()
def {name}() -> None:
    {body}

sys.argv = ["ensue", "{name}"]
cli.main()
"""


def start(body: str) -> subprocess.Popen[str]:
    code = VERB.format(name="tryit", body=body)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_interruption_ends_with_130_and_one_line():
    # A program started in the background of a shell may have been told to ignore Ctrl-C.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = start(f"{heed}; print('started', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    "body",
    [
        "sys.stdin.readline(); print('x' * 100)",
        "sys.stdin.readline(); print('x' * 10**6, flush=True)",
    ],
)
def test_a_reader_that_leaves_is_no_error(body):
    read_end, write_end = os.pipe()
    code = VERB.format(name="tryit", body=body)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(write_end)
        os.close(read_end)
        _, err = process.communicate("go\n", timeout=30)
    assert (process.returncode, err) == (141, "")
