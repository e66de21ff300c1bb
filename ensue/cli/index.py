"""`ensue index`: build a search structure over a run's items, or measure those that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def index(
    run: Annotated[Path, typer.Argument(help="Run folder made by ensue train.")],
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="exact, hnsw, ivf or paths; with --benchmark: repeat."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, of the kind; repeat.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the index, RUN/indexes/KIND by default; with --benchmark: for "
            "index_benchmark.json and a page, index_benchmark.html.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the index that is there.")
    ] = False,
    benchmark: Annotated[
        bool,
        typer.Option("--benchmark", help="Measure quality and time of the indexes of the run."),
    ] = False,
    queries: Annotated[
        int | None, typer.Option(help="With --benchmark: histories asked for; 1000.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--k", help="With --benchmark: items found; 100.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Build an index of a run's items, for answers without scoring all of them."""
    from ensue.cli.output import print_json, print_text
    from ensue.config import parse_settings
    from ensue.errors import UsageError
    from ensue.indexes.store import read_stored
    from ensue.runs.run import load

    if benchmark:
        if assignments or overwrite:
            raise UsageError(
                "--benchmark measures indexes as they are: without --set, --overwrite."
            )
        _benchmark(run, kind, queries, k, output, as_json=as_json)
        return
    if queries is not None or k is not None:
        raise UsageError("--queries and --k go with --benchmark.")
    if kind is None or len(kind) != 1:
        raise UsageError("ensue index needs one --kind (exact, hnsw, ivf, paths), or --benchmark.")
    opened, settings = load(run), parse_settings(assignments or [])
    opened.build_index(kind[0], out=output, overwrite=overwrite, **settings)
    stored = read_stored(opened.index_path(kind[0] if output is None else output))
    if as_json:
        print_json(stored.to_dict())
        return
    print_text(
        f"{stored.kind} index of {stored.num_items:,} items, built in {stored.seconds:.1f} s, "
        f"{stored.num_bytes / 1e6:.1f} MB, in {stored.path}. Next:\n"
        f"  ensue recommend {run} --user ID --index {kind[0] if output is None else output}\n"
        f"  ensue index {run} --benchmark"
    )


def _benchmark(
    run: Path,
    kinds: list[str] | None,
    queries: int | None,
    k: int | None,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Measure the indexes of a run, and show the table."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.runs.index_benchmark import BATCHES, benchmark_indexes

    options = {
        name: value for name, value in (("num_queries", queries), ("k", k)) if value is not None
    }
    found = benchmark_indexes(run, kinds, out=output, progress=True, **options)
    if as_json:
        print_json(found.to_dict())
        return
    rows = [
        [row.label, row.recall, *(t for size in BATCHES for t in row.ms[str(size)].values())]
        for row in found.rows
    ]
    times = [f"ms, {size} at a time{part}" for size in BATCHES for part in ("", ", p95")]
    title = f"{found.num_items:,} items, {found.num_queries:,} queries; times are of one query"
    print_table(["index", f"recall@{found.k}", *times], rows, title=title)
    if output is not None:
        print_text(f"The page is {output / 'index_benchmark.html'}.")
