"""A file imports only from its own layer and the layers before it."""

from __future__ import annotations

import ast

import pytest

from tests.policy.source import package_sources, runtime_imports

LAYERS = [
    "errors",
    "config",
    "files",
    "progress",
    "protocols",
    "data",
    "nn",
    "losses",
    "optim",
    "models",
    "distributed",
    "training",
    "indexes",
    "clustering",
    "evaluation",
    "audit",
    "runs",
    "serving",
    "cli",
]
SURFACE = "ensue/__init__.py"  # names public things of every layer, and imports them lazily


def layer_of_file(path: str) -> str:
    name = path.split("/")[1].removesuffix(".py")
    return "cli" if name == "__main__" else name  # the command line as a module


def backward_imports(path: str, tree: ast.AST) -> list[str]:
    own = LAYERS.index(layer_of_file(path))
    names = [name for name in runtime_imports(tree) if name.split(".")[0] == "ensue"]
    return [
        name
        for name in names
        if name != "ensue.__version__"
        and (len(parts := name.split(".")) == 1 or LAYERS.index(parts[1]) > own)
    ]


def test_every_file_lies_in_a_known_layer():
    paths = [source.path for source in package_sources() if source.path != SURFACE]
    assert [path for path in paths if layer_of_file(path) not in LAYERS] == []


def test_no_backward_import():
    found = {
        source.path: backward_imports(source.path, source.tree)
        for source in package_sources()
        if source.path != SURFACE
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_the_surface_imports_nothing_of_the_layers_at_once():
    (surface,) = (source for source in package_sources() if source.path == SURFACE)
    assert list(runtime_imports(surface.tree)) == [
        "__future__.annotations",
        "importlib.import_module",
        "typing.TYPE_CHECKING",
        "typing.Any",
    ]


@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        ("ensue/nn/towers.py", "from ensue.data.ids import IdMap", []),
        ("ensue/nn/towers.py", "from ensue.nn import gates", []),
        ("ensue/nn/towers.py", "from ensue import __version__", []),
        ("ensue/nn/towers.py", "import ensue.models.base", ["ensue.models.base"]),
        ("ensue/nn/towers.py", "import ensue", ["ensue"]),
        ("ensue/nn/towers.py", "from ensue import models", ["ensue.models"]),
        ("ensue/nn/a.py", "def f():\n    from ensue.runs import run", ["ensue.runs.run"]),
        ("ensue/nn/a.py", "if TYPE_CHECKING:\n    from ensue.runs import run", []),
        ("ensue/errors.py", "from ensue.config import Config", ["ensue.config.Config"]),
    ],
)
def test_the_walk_itself(path, code, expected):
    assert backward_imports(path, ast.parse(code)) == expected
