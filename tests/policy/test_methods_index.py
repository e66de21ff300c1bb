"""docs/methods.md has a row for every method, and names no file that does not exist."""

from __future__ import annotations

import re

from tests.policy.source import PACKAGE, ROOT

INDEX = ROOT / "docs" / "methods.md"


def method_files() -> list[str]:
    files = [*PACKAGE.glob("models/*/*.py"), *PACKAGE.glob("optim/*.py")]
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.name != "__init__.py" and not path.name.startswith("_")
    )


def test_every_method_has_a_row():
    rows = [line for line in INDEX.read_text("utf-8").splitlines() if line.startswith("|")]
    assert [path for path in method_files() if not any(f"`{path}`" in row for row in rows)] == []


def test_every_file_named_there_exists():
    named = re.findall(r"`((?:ensue|tests|benchmarks|docs|recipes)/[\w./-]+)`", INDEX.read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
