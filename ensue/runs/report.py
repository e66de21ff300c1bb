"""A run as one HTML file: its settings, how it learned, how well it ranks, and what it recommends.

The file needs nothing beside it and asks nothing of a network. It is made from plain dictionaries:
run.json, the lines of log.jsonl, and the files of evaluation/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ensue.evaluation.gates import measure_context_gates, measure_gates
from ensue.evaluation.slices import SLICES, TENTHS
from ensue.files import atomic_file
from ensue.models.sequential.m3 import M3
from ensue.runs.explain_page import diagnostics_section
from ensue.runs.features_page import features_section, measure_information
from ensue.runs.item_clusters import item_clusters_section, measure_item_clusters
from ensue.runs.page import (
    Mean,
    Tile,
    build_page,
    header,
    notes,
    plots,
    section,
    settings_table,
    show_interval,
    table,
)
from ensue.runs.paths_page import measure_paths, paths_section
from ensue.runs.plots import draw_intervals
from ensue.runs.report_sections import (
    clipping_section,
    interval_of,
    learning_section,
    settings_section,
    users_section,
)
from ensue.runs.run import Run

HEADLINES = ("map", "ndcg@10", "recall@10")
NUM_USERS_SHOWN = 3
LENGTH_SHOWN = 10  # items of a history, and of a list


@dataclass(frozen=True)
class Example:
    """One ranked list: for whom, what they had (oldest first), and what they get (best first)."""

    label: str
    history: Sequence[str]
    items: Sequence[str]
    scores: Sequence[float]


def build_html(
    info: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
    examples: Sequence[Example],
    gates: Sequence[Mapping[str, Any]] = (),
    context_gates: Sequence[Mapping[str, Any]] = (),
    paths: Mapping[str, Any] | None = None,
    information: Mapping[str, Any] | None = None,
    clusters: Mapping[str, Any] | None = None,
) -> str:
    """Return the report as HTML text.

    Args:
        info: run.json.
        log: the lines of log.jsonl; empty for a model that is not trained in epochs.
        evaluations: split ("validation", "test") -> its evaluation, as `Evaluation.to_dict`.
        gates: by history length, as `GateSlice.to_dict`; empty for a model without gates.
        context_gates: by values of context, as `ContextGates.to_dict`.
        paths: what `measure_paths` returns; None for a model without paths.
        information: of the features of items, from `measure_information`.
        clusters: of the vectors of items, from `measure_item_clusters`.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    title = title_of(info)
    return build_page(
        title,
        [
            _header(title, info, evaluations),
            learning_section(log, info),
            clipping_section(log),
            _metrics(evaluations),
            _slices(evaluations),
            users_section(*_result(evaluations)),
            _gates(gates, context_gates),
            paths_section(paths, log) if paths else "",
            features_section(information or {}),
            item_clusters_section(clusters or {}),
            _distillation(info),
            _examples(examples),
            _protocol(evaluations),
            settings_section(info),
        ],
    )


def title_of(info: Mapping[str, Any]) -> str:
    """Return what a run is called: its model and its dataset."""
    return f"{info.get('model', 'model')} on {info.get('dataset', {}).get('name', 'a dataset')}"


def stored_sections(
    info: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return the parts of the report for which no model is asked, as HTML; see `build_html`.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    return [
        _header(title_of(info), info, evaluations),
        learning_section(log, info),
        clipping_section(log),
        _metrics(evaluations),
        _slices(evaluations),
        users_section(*_result(evaluations)),
        _distillation(info),
        _protocol(evaluations),
        settings_section(info),
    ]


def write_report(run: Run, out: str | Path | None = None) -> Path:
    """Write the report of a run, by default as RUN/report.html, and return its path.

    Raises:
        ExtraError: matplotlib is not installed.
        RunError: a file of the run cannot be read.
    """
    path = run.path / "report.html" if out is None else Path(out)
    evaluations = {split: stored.to_dict() for split, stored in run.evaluations().items()}
    gates, context_gates = _measure_gates(run)
    html = build_html(
        run.info,
        run.log(),
        evaluations,
        make_examples(run),
        gates,
        context_gates,
        measure_paths(run),
        measure_information(run.model),
        measure_item_clusters(run),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _measure_gates(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the gates by history length and by values of context; nothing without gates."""
    model, histories = run.model, run.recommender.histories
    if not isinstance(model, M3) or model.gate is None:
        return [], []
    by_value = measure_context_gates(model, histories, model.context, run.context_values)
    by_length = measure_gates(model, histories)
    return [part.to_dict() for part in by_length], [part.to_dict() for part in by_value]


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
            interval = interval_of(evaluation, name)
            below = show_interval(interval) if interval else ""
            tiles.append(Tile(f"{evaluation['metrics'][name]:.4f}", f"{name}, {split}", below))
    return header(title, facts, tiles)


def _metrics(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    if not evaluations:
        return section("Metrics", "<p>This run was not evaluated yet.</p>")
    tables = [
        f"<h3>{escape(split)}</h3>{_metric_table(evaluation)}"
        for split, evaluation in evaluations.items()
    ]
    return section("Metrics", "".join(tables))


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
            row.append(Mean(means.get(full_name), interval_of(evaluation, full_name)))
        rows.append(row)
    return table(["", *(f"@{cut}" if cut else "whole list" for cut in cuts)], rows)


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
            interval_of(slices[name], metric) or (value, value)
            for name, value in zip(names, values, strict=True)
        ],
    )
    shown = [*names, *(name for name in TENTHS if slices.get(name, {}).get("metrics"))]
    rows = table(
        ["", "items", "users", "targets", *metrics],
        [
            [name, *(slices[name].get(count) for count in ("items", "users", "targets"))]
            + [
                Mean(slices[name]["metrics"].get(metric), interval_of(slices[name], metric))
                for metric in metrics
            ]
            for name in shown
        ],
    )
    explanation = (
        "<p>Items by how often they occur in the histories: head, torso and tail each hold about a "
        "third of the interactions; new items do not occur there at all. The top tenth is the "
        "tenth of the items that occur there with the most interactions, the rest all others.</p>"
    )
    return section(
        "Popular and rare items",
        f"{explanation}{plots([plot])}{rows}",
    )


def _gates(gates: Sequence[Mapping[str, Any]], context_gates: Sequence[Mapping[str, Any]]) -> str:
    """Return plots of each gate, and tables: means, and deviations across requests."""
    if not gates:
        return ""
    *by_length, everything = gates
    lengths = [f"{part['first']:,} to {part['last']:,}" for part in by_length]
    parts = dict(zip(lengths, by_length, strict=True))
    body = _gate_plots("length of the history", parts)
    body += _gate_table("events", {**parts, "all": everything})
    by_column: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for part in context_gates:
        label = "(missing)" if part["value"] is None else part["value"]
        by_column.setdefault((part["column"], part["side"]), {})[label] = part
    for (column, side), values in by_column.items():
        what = f"{column} of the {'last event' if side == 'event' else 'request'}"
        body += _gate_plots(what, values) + _gate_table(what, values)
    explanation = (
        "<p>How far the gates open, from 0 to 1: the mean over requests, and the standard "
        "deviation across them (the bars). A gate that does not vary is not used.</p>"
    )
    return section("Gates", explanation + body)


def _gate_plots(what: str, parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a plot for each gate, with a row for each of the labeled parts."""
    drawings = []
    for name in next(iter(parts.values()))["means"]:
        pairs = [(part["means"][name], part["deviations"][name]) for part in parts.values()]
        spans = [(max(mean - spread, 0.0), min(mean + spread, 1.0)) for mean, spread in pairs]
        title = f"gate of the {name} range by {what}"
        drawings.append(draw_intervals(title, list(parts), [mean for mean, _ in pairs], spans))
    return plots(drawings)


def _gate_table(what: str, parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table with a row for each of the labeled parts."""
    rows = []
    for label, part in parts.items():
        row: list[object] = [label, part["num_requests"]]
        for name, mean in part["means"].items():
            row += [Mean(mean, None), Mean(part["deviations"][name], None)]
        rows.append(row)
    names = next(iter(parts.values()))["means"]
    heads = [head for name in names for head in (name, f"{name}, deviation")]
    return table([what, "requests", *heads], rows)


def _distillation(info: Mapping[str, Any]) -> str:
    method = info.get("distillation", {}).get("method", "")
    return diagnostics_section(method, info.get("diagnostics", {}))


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
    return section("Recommendations", "".join(blocks))


def _protocol(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    _, evaluation = _result(evaluations)
    protocol = dict(evaluation.get("protocol", {}))
    found = [str(note) for note in protocol.pop("notes", [])]
    rules = settings_table(protocol) if protocol else ""
    body = notes(found) + rules
    return section("How it was measured", body) if body else ""
