"""What may not stand in the source: other alphabets, and formats or calls that run data as code."""

from __future__ import annotations

import ast

import pytest

from tests.policy.source import ROOT, package_sources, runtime_imports

FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "torch.load", "torch.save", "torch.jit.load"}
WRITTEN = (".py", ".md", ".toml", ".cfg", ".yml", "Makefile", "run", "LICENSE")


def forbidden(tree: ast.AST) -> list[str]:
    modules = {name.split(".")[0] for name in runtime_imports(tree)} & FORBIDDEN_MODULES
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    unsafe = [
        ast.unparse(keyword)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
    ]
    return sorted(modules | (calls & FORBIDDEN_CALLS)) + unsafe


def test_nothing_stored_can_run_code():
    found = {source.path: forbidden(source.tree) for source in package_sources()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import pickle", ["pickle"]),
        ("from joblib import dump", ["joblib"]),
        ("torch.load(path)", ["torch.load"]),
        ("eval(text)", ["eval"]),
        ("np.load(path, allow_pickle=True)", ["allow_pickle=True"]),
        ("np.load(path, allow_pickle=False)\nmodel.eval()\nre.compile('a')", []),
    ],
)
def test_the_search_itself(code, expected):
    assert forbidden(ast.parse(code)) == expected


def test_text_is_ascii():
    folders = [ROOT / name for name in ("ensue", "tests", "benchmarks", "docs", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.iterdir())
    written = [path for path in files if path.is_file() and path.name.endswith(WRITTEN)]
    assert [str(path) for path in written if not path.read_bytes().isascii()] == []


def test_every_file_has_a_docstring_and_postponed_annotations():
    for source in package_sources():
        if source.path.endswith("__init__.py") and not source.text.strip():
            continue
        assert ast.get_docstring(source.tree), f"{source.path} has no docstring"
        if any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in source.tree.body):
            names = list(runtime_imports(source.tree))
            assert "__future__.annotations" in names, f"{source.path} evaluates annotations"
