"""Paths in the report of a run: their sizes, how they came about, and what a beam finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ensue.indexes.paths import PathIndex, PathsConfig
from ensue.models.retrieval.deep_retrieval import DeepRetrieval
from ensue.runs.index_benchmark import sample_queries
from ensue.runs.page import Mean, plots, section, table
from ensue.runs.path_overlap import measure_overlap
from ensue.runs.plots import Line, draw_histogram, draw_lines
from ensue.runs.run import Run

NUM_QUERIES = 256  # whose answers are compared with the exact ones
TOP = 100  # answers compared
BEAMS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
NUM_BINS = 30


def measure_paths(run: Run) -> dict[str, Any] | None:
    """Return the sizes of the paths of a run and its overlap with brute force, ready for JSON.

    The requests are those of some users. None for a model without paths.
    """
    model = run.model
    if not isinstance(model, DeepRetrieval):
        return None
    index = PathIndex.build(model, PathsConfig())
    sizes = np.diff(index.tree.first_item)
    num_leaves = index.tree.num_leaves
    queries = sample_queries(run, NUM_QUERIES)
    beams = sorted({min(beam, num_leaves) for beam in (*BEAMS, index.beam)})
    overlaps = measure_overlap(index, queries, k=TOP, beams=beams)
    edges = np.unique(np.geomspace(1, sizes.max() + 1, NUM_BINS + 1).round()).astype(np.int64)
    return {
        "num_paths": num_leaves,
        "possible_paths": model.path_layers.num_paths,
        "mean_size": float(sizes.mean()),
        "largest": int(sizes.max()),
        "size_edges": edges.tolist(),
        "size_counts": np.histogram(sizes, edges)[0].tolist(),
        "num_requests": len(queries),
        "top": min(TOP, model.num_items),
        "beam": index.beam,
        "overlap": [overlap.to_dict() for overlap in overlaps],
    }


def paths_section(paths: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> str:
    """Return the section on paths as HTML: sizes, the objective, and overlap against the beam.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    edges, counts = paths["size_edges"], paths["size_counts"]
    drawings = [draw_histogram("paths by their items", edges, counts, x_label="items of a path")]
    drawings += _objective(log)
    beams = [point["beam"] for point in paths["overlap"]]
    overlap = [point["overlap"] for point in paths["overlap"]]
    scored = [point["share_scored"] for point in paths["overlap"]]
    title = f"share of the exact top {paths['top']} found, and share of the catalogue scored"
    lines = [Line("found", beams, overlap), Line("scored", beams, scored, series=1)]
    drawings.append(draw_lines(title, lines, x_label="beam", log="x"))
    sentence = (
        f"{paths['num_paths']:,} of {paths['possible_paths']:,} paths hold items, "
        f"{paths['mean_size']:.1f} on average and {paths['largest']:,} at most; a search without "
        f"a beam of its own keeps {paths['beam']}. The overlap with brute force, the softmax over "
        f"all items, is a mean over {paths['num_requests']:,} requests."
    )
    rows = [
        [point["beam"], Mean(point["overlap"], None), Mean(point["share_scored"], None)]
        for point in paths["overlap"]
    ]
    listed = table(["beam", f"overlap@{paths['top']}", "share of the catalogue scored"], rows)
    return section("Paths", f"<p>{escape(sentence)}</p>{plots(drawings)}{listed}")


def _objective(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return plots of the assignments' objective and of the path loss, over the epochs."""
    drawings = []
    steps = [line for line in log if line.get("paths")]
    if steps:
        epochs = [line["epoch"] for line in steps]
        before = [line["paths"]["objective_before"] for line in steps]
        after = [line["paths"]["objective"] for line in steps]
        lines = [Line("old paths", epochs, before, series=1), Line("new paths", epochs, after)]
        title = "objective of each assignment, by its own scores and alpha"
        drawings.append(draw_lines(title, lines, x_label="before epoch"))
    trained = [line for line in log if "path_loss" in line]
    if trained:
        epochs = [line["epoch"] for line in trained]
        loss = Line("path loss", epochs, [line["path_loss"] for line in trained])
        drawings.append(draw_lines("path loss in training, nats", [loss], x_label="epoch"))
    return drawings
