"""A run as one HTML file: its settings, how it learned, how well it ranks, and what it recommends.

The file needs nothing beside it and asks nothing of a network. It is made from plain dictionaries:
run.json, the lines of log.jsonl, and the files of evaluation/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ensue.evaluation.gates import measure_gates
from ensue.evaluation.slices import SLICES
from ensue.files import atomic_file
from ensue.models.sequential.m3 import M3
from ensue.runs.plots import draw_curve, draw_intervals
from ensue.runs.report_style import STYLE
from ensue.runs.run import Run

HEADLINES = ("map", "ndcg@10", "recall@10")
RUN_FACTS = ("preset", "fit", "seed", "epochs", "best_epoch", "seconds", "num_parameters")
RUN_GROUPS = ("config", "training", "dataset", "versions", "hardware")
NUM_USERS_SHOWN = 3
LENGTH_SHOWN = 10  # items of a history, and of a list


@dataclass(frozen=True)
class Example:
    """One ranked list: for whom, what they had (oldest first), and what they get (best first)."""

    label: str
    history: Sequence[str]
    items: Sequence[str]
    scores: Sequence[float]


class Mean(NamedTuple):
    """A cell of a table: a mean over users, and its interval where there is one."""

    value: float | None
    interval: tuple[float, float] | None


def build_html(
    info: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
    examples: Sequence[Example],
    gates: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the report as HTML text.

    Args:
        info: run.json.
        log: the lines of log.jsonl; empty for a model that is not trained in epochs.
        evaluations: split ("validation", "test") -> its evaluation, as `Evaluation.to_dict`.
        gates: by history length, as `GateSlice.to_dict`; empty for a model without gates.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    dataset = info.get("dataset", {})
    title = f"{info.get('model', 'model')} on {dataset.get('name', 'a dataset')}"
    body = "\n".join(
        [
            _header(title, info, evaluations),
            _learning(log, info),
            _metrics(evaluations),
            _slices(evaluations),
            _gates(gates),
            _examples(examples),
            _protocol(evaluations),
            _settings(info),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def write_report(run: Run, out: str | Path | None = None) -> Path:
    """Write the report of a run, by default as RUN/report.html, and return its path.

    Raises:
        ExtraError: matplotlib is not installed.
        RunError: a file of the run cannot be read.
    """
    path = run.path / "report.html" if out is None else Path(out)
    evaluations = {split: stored.to_dict() for split, stored in run.evaluations().items()}
    gates = []
    if isinstance(run.model, M3) and run.model.gate is not None:
        measured = measure_gates(run.model, run.recommender.histories)
        gates = [part.to_dict() for part in measured]
    html = build_html(run.info, run.log(), evaluations, make_examples(run), gates)
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def make_examples(run: Run) -> list[Example]:
    """Return lists for a few users spread over the ids, and for someone new with one item."""
    recommender, names = run.recommender, run.item_names()

    def call(items: list[str]) -> list[str]:
        return [names.get(item) or item for item in items]

    num_users = len(recommender.user_ids)
    rows = np.unique(np.linspace(1, num_users, min(NUM_USERS_SHOWN, num_users), dtype=np.int64))
    users = recommender.user_ids.to_raw(rows)
    histories = [recommender.item_ids.to_raw(recommender.histories[row]) for row in rows.tolist()]
    labels = [
        f"user {user}: {_last_of(len(history))}"
        for user, history in zip(users, histories, strict=True)
    ]
    new = histories[0][-1:]
    answers = run.recommend(users=users, histories=[new], k=LENGTH_SHOWN)
    shown = zip([*labels, "someone new, with one item"], [*histories, new], answers, strict=True)
    return [
        Example(label, call(history[-LENGTH_SHOWN:]), call(answer.items), answer.scores)
        for label, history, answer in shown
    ]


def _last_of(length: int) -> str:
    return f"{length} items" if length <= LENGTH_SHOWN else f"last {LENGTH_SHOWN} of {length} items"


def _result(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    """Return the split and the evaluation that count: test where there is one; ("", {}) if none."""
    split = "test" if "test" in evaluations else next(iter(evaluations), "")
    return split, evaluations.get(split, {})


def _header(
    title: str, info: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]
) -> str:
    counts = info.get("dataset", {}).get("counts", {})
    facts = [
        f"{counts[name]:,} {name}" for name in ("users", "items", "interactions") if name in counts
    ]
    if info.get("created"):
        facts.append(f"made {str(info['created'])[:16].replace('T', ' ')} UTC")
    split, evaluation = _result(evaluations)
    tiles = []
    for name in HEADLINES:
        if name in evaluation.get("metrics", {}):
            interval = _interval(evaluation, name)
            tiles.append(
                f'<div class="tile"><b>{evaluation["metrics"][name]:.4f}</b>'
                f"<span>{escape(name)}, {escape(split)}</span>"
                f"<small>{_range(interval) if interval else ''}</small></div>"
            )
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(', '.join(facts))}</p>\n"
        f'<div class="tiles">{"".join(tiles)}</div>\n</header>'
    )


def _learning(log: Sequence[Mapping[str, Any]], info: Mapping[str, Any]) -> str:
    if not log:
        return _section("Learning", "<p>This model is computed in one go: it has no epochs.</p>")
    best_epoch = info.get("best_epoch") or None  # 0 where nothing was validated
    metric = (info.get("training") or {}).get("metric")
    epochs = [int(line["epoch"]) for line in log]
    plots = [
        draw_curve("training loss", epochs, [line["loss"] for line in log], marked_epoch=best_epoch)
    ]
    validated = [line for line in log if metric in line.get("validation", {})]
    if validated:
        plots.append(
            draw_curve(
                f"{metric} on validation",
                [int(line["epoch"]) for line in validated],
                [line["validation"][metric] for line in validated],
                series=1,
                marked_epoch=best_epoch,
            )
        )
    seconds = sum(line.get("seconds", 0.0) for line in log)
    plural = "" if len(log) == 1 else "s"
    sentence = f"{len(log):,} epoch{plural} in {seconds:,.0f} s"
    if log[-1].get("examples_per_s"):
        sentence += f", {log[-1]['examples_per_s']:,.0f} examples/s in the last"
    if best_epoch is not None:
        sentence += f"; the weights of epoch {best_epoch} (circled) were kept"
    figures = "".join(f"<figure>{plot}</figure>" for plot in plots)
    return _section("Learning", f'<p>{escape(sentence)}.</p><div class="plots">{figures}</div>')


def _metrics(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    if not evaluations:
        return _section("Metrics", "<p>This run was not evaluated yet.</p>")
    tables = [
        f"<h3>{escape(split)}</h3>{_metric_table(evaluation)}"
        for split, evaluation in evaluations.items()
    ]
    return _section("Metrics", "".join(tables))


def _metric_table(evaluation: Mapping[str, Any]) -> str:
    """Return a row for each metric and a column for each cut-off, intervals below the means."""
    means = {**evaluation["metrics"], **evaluation.get("coverage", {})}
    names = list(dict.fromkeys(name.partition("@")[0] for name in means))
    cuts = list(dict.fromkeys(name.partition("@")[2] for name in means))
    rows = []
    for name in names:
        row: list[object] = [name]
        for cut in cuts:
            full_name = f"{name}@{cut}" if cut else name
            row.append(Mean(means.get(full_name), _interval(evaluation, full_name)))
        rows.append(row)
    return _table(["", *(f"@{cut}" if cut else "whole list" for cut in cuts)], rows)


def _slices(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    split, evaluation = _result(evaluations)
    slices = evaluation.get("slices", {})
    names = [name for name in SLICES if slices.get(name, {}).get("metrics")]
    if not names:
        return ""
    measured = slices[names[0]]["metrics"]
    metrics = [name for name in HEADLINES if name in measured] or list(measured)
    metric = "recall@10" if "recall@10" in metrics else metrics[0]
    values = [slices[name]["metrics"][metric] for name in names]
    plot = draw_intervals(
        f"{metric} by popularity of the item, {split}",
        names,
        values,
        [
            _interval(slices[name], metric) or (value, value)
            for name, value in zip(names, values, strict=True)
        ],
    )
    table = _table(
        ["", "items", "users", "targets", *metrics],
        [
            [name, *(slices[name].get(count) for count in ("items", "users", "targets"))]
            + [
                Mean(slices[name]["metrics"].get(metric), _interval(slices[name], metric))
                for metric in metrics
            ]
            for name in names
        ],
    )
    explanation = (
        "<p>Items by how often they occur in the histories: head, torso and tail each hold about a "
        "third of the interactions; new items do not occur there at all.</p>"
    )
    return _section(
        "Popular and rare items",
        f'{explanation}<div class="plots"><figure>{plot}</figure></div>{table}',
    )


def _gates(gates: Sequence[Mapping[str, Any]]) -> str:
    """Return a plot for each gate, and a table: means, and deviations across requests."""
    if not gates:
        return ""
    *by_length, everything = gates
    lengths = [f"{part['first']:,} to {part['last']:,}" for part in by_length]
    plots, rows = [], []
    for name in everything["means"]:
        pairs = [(part["means"][name], part["deviations"][name]) for part in by_length]
        spans = [(max(mean - spread, 0.0), min(mean + spread, 1.0)) for mean, spread in pairs]
        title = f"gate of the {name} range by length of the history"
        plots.append(draw_intervals(title, lengths, [mean for mean, _ in pairs], spans))
    for label, part in zip([*lengths, "all"], gates, strict=True):
        row: list[object] = [label, part["num_requests"]]
        for name, mean in part["means"].items():
            row += [Mean(mean, None), Mean(part["deviations"][name], None)]
        rows.append(row)
    heads = [head for name in everything["means"] for head in (name, f"{name}, deviation")]
    figures = "".join(f"<figure>{plot}</figure>" for plot in plots)
    explanation = (
        "<p>How far the gates open, from 0 to 1: the mean over requests, and the standard "
        "deviation across them (the bars). A gate that does not vary is not used.</p>"
    )
    table = _table(["events", "requests", *heads], rows)
    return _section("Gates", f'{explanation}<div class="plots">{figures}</div>{table}')


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    blocks = []
    for example in examples:
        history = "".join(f"<li>{escape(item)}</li>" for item in example.history)
        items = "".join(
            f"<li>{escape(item)} <small>{score:.4g}</small></li>"
            for item, score in zip(example.items, example.scores, strict=True)
        )
        blocks.append(
            f'<article><h3>{escape(example.label)}</h3><div class="lists">'
            f"<div><h4>had, oldest first</h4><ul>{history}</ul></div>"
            f"<div><h4>gets, best first</h4><ol>{items}</ol></div></div></article>"
        )
    return _section("Recommendations", "".join(blocks))


def _protocol(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    _, evaluation = _result(evaluations)
    protocol = dict(evaluation.get("protocol", {}))
    notes = protocol.pop("notes", [])
    parts = []
    if notes:
        listed = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
        parts.append(f'<ul class="notes">{listed}</ul>')
    if protocol:
        parts.append(_table(["rule", "value"], _flat(protocol)))
    return _section("How it was measured", "".join(parts)) if parts else ""


def _settings(info: Mapping[str, Any]) -> str:
    groups = {"run": {name: info[name] for name in RUN_FACTS if info.get(name) is not None}}
    groups |= {name: info[name] for name in RUN_GROUPS if info.get(name)}
    parts = []
    for name, group in groups.items():
        table = _table(["name", "value"], _flat(group))
        opened = " open" if name == "config" else ""
        parts.append(f"<details{opened}><summary>{name}</summary>{table}</details>")
    return _section("Settings", "".join(parts))


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table that scrolls sideways on a narrow screen."""
    kinds = [
        ' class="number"' if any(isinstance(row[c], (int, Mean)) for row in rows) else ""
        for c in range(len(columns))
    ]
    head = "".join(
        f"<th{kind}>{escape(column)}</th>" for kind, column in zip(kinds, columns, strict=True)
    )
    lines = [
        "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    """Return the HTML of a cell: counts with commas, means with four decimals."""
    if isinstance(value, Mean):
        below = f"<small>{_range(value.interval)}</small>" if value.interval else ""
        return "-" if value.value is None else f"{value.value:.4f}{below}"
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def _flat(values: Mapping[str, Any] | Any, prefix: str = "") -> list[list[str]]:
    """Return [name, value] rows of a nested dictionary, names joined by dots."""
    rows = []
    for name, value in dict(values).items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
            rows.append([f"{prefix}{name}", value if isinstance(value, str) else text])
    return rows


def _interval(evaluation: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    interval = evaluation.get("intervals", {}).get(name)
    return (interval[0], interval[1]) if interval else None
