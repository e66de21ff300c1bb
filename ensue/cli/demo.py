"""`ensue demo`: the main job from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ensue.runs.demo import Demo


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your own interaction log; default is a synthetic one.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the demo's files.")
    ] = Path("demo"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Prepare, train two models and baselines, evaluate, recommend, report: in about a minute."""
    from ensue.cli.output import print_json
    from ensue.runs.demo import run_demo

    outcome = run_demo(output, data=data)
    if as_json:
        print_json(outcome.to_dict())
    else:
        _print_outcome(outcome)


def _print_outcome(outcome: Demo) -> None:
    """Write metrics with intervals, who is better than whom, and two lists."""
    from ensue.cli.output import print_table, print_text

    evaluations = {name: run.evaluations()["test"] for name, run in outcome.runs.items()}
    rows: list[list[object]] = []
    for name, found in sorted(evaluations.items(), key=lambda pair: pair[1].metrics["map"]):
        low, high = found.intervals["map"]
        means = [found.metrics[metric] for metric in ("map", "ndcg@10", "hr@10")]
        rows.append([name, *means, f"{low:.4f} to {high:.4f}"])
    counts = outcome.dataset.info.counts
    print_table(
        ["model", "map", "ndcg@10", "hr@10", "95% of map"],
        rows,
        title=f"next item of {counts['test']:,} users among {counts['items']:,} items",
    )
    best = outcome.best.path.name
    tests = [
        [test["a"], test["b"], test["difference"], test["p_corrected"]]
        for test in outcome.comparison.tests
        if best in (test["a"], test["b"]) and test["metric"] == "map"
    ]
    print_table(["a", "b", "map a - b", "p (holm)"], tests, title=f"is {best} better by chance?")
    names = outcome.best.item_names()
    history = ", ".join(names.get(item, item) for item in outcome.history)
    for answer in outcome.answers:
        title = f"for user {answer.user}" if answer.user else f"for someone who had: {history}"
        rows = [
            [rank, item, names.get(item, ""), score]
            for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)
        ]
        print_table(["rank", "item", "name", "score"], rows, title=f"{best}, {title}")
    print_text(
        f"The report is {outcome.report}. Try:\n"
        f"  ensue recommend {outcome.best.path} --history {','.join(outcome.history)}\n"
        f"  ensue serve {outcome.best.path}   # then open http://127.0.0.1:8000/"
    )
