"""Clusters as one HTML file, and the section on item vectors in the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensue.runs.page import (
    Mean,
    Tile,
    beside,
    build_page,
    details,
    header,
    notes,
    plots,
    section,
    settings_table,
    table,
)
from ensue.runs.plots import Line, draw_lines

CLUSTERS_SHOWN = 50
MAIN, MAJORITY = "hungarian, fitted on train", "majority, fitted on train"
NAMES = {
    "hungarian": "accuracy, Hungarian",
    "majority": "accuracy, majority",
    "ari": "ARI",
    "ami": "AMI",
    "nmi": "NMI",
    "v_measure": "V-measure",
    "fmi": "FMI",
    "variance_explained": "variance explained",
    "distance": "mean squared distance",
}


def build_cluster_page(info: Mapping[str, Any], *, title: str) -> str:
    """Return the page as HTML text.

    Args:
        info: cluster.json.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    main, *_ = info["table"]
    return build_page(
        title,
        [
            _header(title, info),
            section("Figures", score_tables(main)),
            _sweep("Over the number of clusters", "k", info["table"], main),
            _sweep("Over the number of components", "dim", info["table"], main),
            _clusters(info),
            _settings(info),
        ],
    )


def name_of(figure: str) -> str:
    """Return what a figure is called: "majority, fitted on train" is an accuracy.

    >>> name_of("majority, fitted on train")
    'accuracy, majority, fitted on train'
    """
    kind, comma, rest = figure.partition(", ")
    return NAMES.get(kind, kind) + comma + rest


def scored_part(row: Mapping[str, Any]) -> str:
    """Return the part whose figures count: the held-out one where there is one."""
    return "test" if "test" in row["scores"] else "train"


def score_tables(row: Mapping[str, Any]) -> str:
    """Return a table for each part: each figure, how it varies over the seeds, and by chance."""
    body = ""
    for part, scores in row["scores"].items():
        chance = row.get("chance", {}).get(part, {})
        rows = [
            [
                name_of(name),
                Mean(value),
                Mean(row["deviations"][part][name]),
                Mean(chance.get(name)),
            ]
            for name, value in scores.items()
        ]
        columns = ["", "value", "deviation over seeds", "by chance"]
        body += f"<h3>{part}</h3>" + table(columns, rows)
    if MAIN in row["scores"]["train"]:
        body += notes(
            [
                "Hungarian gives distinct clusters to the classes, and left-over clusters their "
                "most frequent class. A map fitted on the part it is scored on has seen its "
                "labels, and rises with the number of clusters even by chance.",
                "By chance: the same with the clusters in random order. NMI, V-measure and FMI are "
                "above 0 there, NMI the more, the more clusters; ARI and AMI are not, and are "
                "comparable over numbers of clusters.",
            ]
        )
    return body


def _header(title: str, info: Mapping[str, Any]) -> str:
    main = info["table"][0]
    part = scored_part(main)
    scores = main["scores"][part]
    rows = " and ".join(f"{count:,} {name}" for name, count in info["rows"].items())
    facts = [f"{rows} rows of {info['features']:,} features", f"{main['k']:,} clusters"]
    if info["classes"]:
        facts.append(f"{len(info['classes']):,} classes")
    shown = [name for name in (MAIN, "ari", "ami", "variance_explained") if name in scores]
    tiles = [
        Tile(
            f"{scores[name]:.4f}",
            f"{name_of(name)}, {part}",
            f"{main['chance'][part][name]:.4f} by chance"
            if name in main.get("chance", {}).get(part, {})
            else "",
        )
        for name in shown
    ]
    return header(title, facts, tiles)


def _sweep(
    title: str, name: str, rows: Sequence[Mapping[str, Any]], main: Mapping[str, Any]
) -> str:
    """Return plots and a table of the settings that differ from the main one in this alone."""
    other = "dim" if name == "k" else "k"
    chosen = sorted((r for r in rows if r[other] == main[other]), key=lambda row: row[name])
    if len(chosen) < 2:
        return ""
    part = scored_part(main)
    x = [row[name] for row in chosen]
    label = "clusters" if name == "k" else "components"

    def line(figure: str, series: int | None, kind: str = "scores") -> Line:
        values = [row[kind][part][figure] for row in chosen]
        if kind == "chance":
            return Line(f"{name_of(figure)} by chance", x, values, series, "--")
        return Line(name_of(figure), x, values, series, "o-")

    groups = {"variance explained": [line("variance_explained", 0)]}
    if MAIN in main["scores"][part]:
        accuracies = [line(MAIN, 0), line(MAJORITY, 1)]
        if "chance" in main:
            accuracies.append(line(MAJORITY, None, "chance"))
        groups = {"accuracy": accuracies, "agreement": [line("ari", 0), line("ami", 1)]}
    drawings = [
        draw_lines(f"{what} by {label}, {part}", lines, x_label=label, log="x")
        for what, lines in groups.items()
    ]
    figures = list(main["scores"][part])
    listed = table(
        [label, *map(name_of, figures)],
        [[row[name], *(Mean(row["scores"][part][figure]) for figure in figures)] for row in chosen],
    )
    return section(title, plots(drawings) + details("All figures", listed, is_open=True))


def _clusters(info: Mapping[str, Any]) -> str:
    rows = sorted(info["clusters"], key=lambda row: -row["rows"])
    x = list(range(1, len(rows) + 1))
    drawing = draw_lines(
        "rows of each cluster, largest first",
        [Line("", x, [row["rows"] for row in rows], 0, "o-" if len(rows) < 40 else "-")],
        x_label="cluster",
    )
    columns = ["cluster", "rows"]
    if info["classes"]:
        columns += ["class, Hungarian", "class, majority", "share of that"]
    cells = [
        [
            row["cluster"],
            row["rows"],
            *([row["hungarian"], row["majority"], Mean(row["share"])] if info["classes"] else []),
        ]
        for row in rows[:CLUSTERS_SHOWN]
    ]
    left = len(rows) - len(cells)
    more = f"<p>And {left:,} smaller ones.</p>" if left else ""
    return section("Clusters of the training part", beside(drawing, table(columns, cells) + more))


def _settings(info: Mapping[str, Any]) -> str:
    facts = {name: info[name] for name in ("source", "rows", "features", "permutations")}
    return section("Settings", settings_table({**info["config"], **facts}))
