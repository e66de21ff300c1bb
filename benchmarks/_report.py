"""Write what a benchmark measured, with the machine and versions it was measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parent / "reports"
_PACKAGES = ("ensue", "torch", "numpy", "polars", "pyarrow", "numba", "faiss-cpu", "onnxruntime")


def write_report(name: str, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write reports/<name>_<date>.json and .md and return the path of the second.

    Args:
        config: the settings of the whole benchmark.
        rows: one mapping per measurement; all have the same keys, which head the table.
    """
    report = {
        "name": name,
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "config": dict(config),
        "rows": [dict(row) for row in rows],
    }
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / f"{name}_{report['date']}.md"
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    path.write_text(_to_markdown(report), encoding="utf-8")
    return path


def describe_machine() -> dict[str, str]:
    """Return processor, number of cores usable by this process, memory and system."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {"processor": processor, "cores": str(cores), "system": platform.system()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        machine["memory"] = f"{memory_bytes / 2**30:.0f} GiB"
    return machine


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide speed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def to_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table.

    >>> print(to_table([{"case": "csv", "seconds": 1.23456}]))
    | case | seconds |
    |---|---|
    | csv | 1.235 |
    """
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, *([_show(row[name]) for name in names] for row in rows)]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text.insert(1, "|" + "---|" * len(names))
    return "\n".join(text)


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _to_markdown(report: Mapping[str, Any]) -> str:
    def listing(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in values.items())

    return "\n".join(
        [
            f"# {report['name']}, {report['date']}",
            "",
            f"Machine: {listing(report['machine'])}.",
            f"Versions: {listing(report['versions'])}.",
            f"Config: {listing(report['config'])}.",
            "",
            to_table(report["rows"]),
            "",
        ]
    )
