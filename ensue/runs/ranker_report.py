"""A ranking run as one HTML file: how it learned, task by task, and how well it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensue.files import atomic_file
from ensue.runs.page import build_page, header, section, settings_table
from ensue.runs.ranker import RankingRun
from ensue.runs.ranking_page import ranking_sections, task_tiles
from ensue.runs.report_sections import (
    clipping_section,
    learning_section,
    settings_section,
    tasks_section,
)


def build_ranking_report(
    info: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the report as HTML text.

    Args:
        info: run.json.
        log: the lines of log.jsonl.
        evaluations: split -> `RankingEvaluation.to_dict()`; the page shows that of the test, or
            where there is none that of the validation part.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    dataset = info["dataset"]
    title = f"{info['model']} on {dataset['name']}"
    counts = {part: count for part, count in dataset["counts"].items() if part != "rows"}
    facts = [f"{count:,} rows of {part}" for part, count in counts.items()]
    facts.append(f"made {str(info['created'])[:16].replace('T', ' ')} UTC")
    split = "test" if "test" in evaluations else next(iter(evaluations), "")
    found = evaluations.get(split)
    measured = [section("Metrics", "<p>This run was not evaluated yet.</p>")]
    if found is not None:
        rules = section("How it was measured", settings_table(found["protocol"]))
        measured = [*ranking_sections(found), rules]
    return build_page(
        title,
        [
            header(title, facts, [] if found is None else task_tiles(found)),
            learning_section(log, info),
            tasks_section(log, info["schema"]["tasks"]),
            clipping_section(log),
            *measured,
            settings_section(info),
        ],
    )


def write_ranking_report(run: RankingRun, out: str | Path | None = None) -> Path:
    """Write the report of a run, by default as RUN/report.html, and return its path.

    Raises:
        ExtraError: matplotlib is not installed.
        RunError: a file of the run cannot be read.
    """
    path = run.path / "report.html" if out is None else Path(out)
    evaluations = {split: stored.to_dict() for split, stored in run.evaluations().items()}
    html = build_ranking_report(run.info, run.log(), evaluations)
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path
