"""`ensue report`: one HTML file about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensue.cli.output import print_json, print_text


def report(
    run: Annotated[Path, typer.Argument(help="Folder made by ensue train.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file; default RUN/report.html.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Write one self-contained HTML file: learning curves, metrics, slices, examples."""
    from ensue.progress import note
    from ensue.runs.ranker import KIND, RankingRun
    from ensue.runs.ranker_report import write_ranking_report
    from ensue.runs.report import write_report
    from ensue.runs.run import Run
    from ensue.runs.stored import kind_of, read_info

    opened: Run | RankingRun
    opened = RankingRun(run) if kind_of(read_info(run)) == KIND else Run(run)
    if not opened.evaluations():
        note(f"{run} was not evaluated yet; ensue evaluate {run} adds metrics to the report.")
    if isinstance(opened, RankingRun):
        path = write_ranking_report(opened, output)
    else:
        path = write_report(opened, output)
    if as_json:
        print_json({"report": str(path)})
    else:
        print_text(str(path))
