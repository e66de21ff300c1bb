"""The names `import ensue` offers change only on purpose, and cost nothing until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ensue

SURFACE = [
    "Cascade",
    "Dataset",
    "EnsueError",
    "Profile",
    "RankingDataset",
    "RankingRun",
    "Run",
    "SyntheticConfig",
    "__version__",
    "ablate",
    "cluster",
    "compare",
    "distill",
    "distill_arrays",
    "distill_classifier",
    "encode",
    "evaluate",
    "fetch",
    "generate",
    "load",
    "load_ranker",
    "longitudinal",
    "plan",
    "prepare",
    "prepare_ranking",
    "profile",
    "read_visits",
    "serve",
    "stability",
    "tradeoff",
    "train",
    "train_ranker",
    "tune",
]


def test_the_surface_is_this_list():
    assert sorted(ensue.__all__) == sorted(SURFACE)
    assert dir(ensue) == sorted(SURFACE)


@pytest.mark.parametrize("name", SURFACE)
def test_every_name_can_be_had(name):
    assert getattr(ensue, name) is getattr(ensue, name)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(ensue.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == ensue._HOMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ensue' has no attribute 'Datasat'"):
        _ = ensue.Datasat


def test_import_is_cheap():
    code = (
        "import sys; before = set(sys.modules); import ensue; "
        "print(*(name for name in set(sys.modules) - before if not name.startswith('ensue')))"
    )
    others = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "polars", "numba", "numpy", "pydantic"}
    assert (heavy & set(others), len(others) < 50) == (set(), True)
