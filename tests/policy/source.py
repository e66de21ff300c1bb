"""The package's own source, parsed, for the tests that hold its rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ensue"


@dataclass(frozen=True)
class Source:
    """One file: its path from the root ("ensue/data/ids.py"), its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module


@cache
def package_sources() -> tuple[Source, ...]:
    sources = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
        sources.append(Source(name, text, ast.parse(text, filename=name)))
    return tuple(sources)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def runtime_imports(tree: ast.AST) -> Iterator[str]:
    """Yield every "module" or "module.name" imported at run time, inside functions too."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        for child in tree.orelse:
            yield from runtime_imports(child)
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        yield from (f"{tree.module}.{alias.name}" for alias in tree.names)
    for child in ast.iter_child_nodes(tree):
        yield from runtime_imports(child)
