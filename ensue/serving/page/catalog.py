"""What the page says of runs and items: titles, examples to begin with, facts, and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from markupsafe import Markup

from ensue.runs.plots import has_plots
from ensue.runs.report import HEADLINES, stored_sections
from ensue.serving.page.lists import Title
from ensue.serving.served import ServedModel

NUM_USERS = 5
NUM_ITEMS = 3
NO_PLOTS = "<p>The curves and tables of a run need matplotlib: pip install 'ensue[report]'.</p>"


class Examples(NamedTuple):
    """Users of the training data, and a history that nobody has."""

    users: list[str]
    items: list[str]


def titles(models: Sequence[ServedModel]) -> Title:
    """Return a function from the id of an item to its title in the first model that has one."""
    known: list[Mapping[str, str]] = [model.titles for model in models]

    def title(item: str) -> str:
        return next((names[item] for names in known if item in names), item)

    return title


def examples(served: ServedModel) -> Examples:
    """Return users spread over the ids, and the last items of some of them."""
    recommender = served.run.recommender
    histories = recommender.histories
    with_events = np.flatnonzero(histories.lengths > 0)
    if len(with_events) == 0:
        return Examples([], [])
    places = np.linspace(0, len(with_events) - 1, min(NUM_USERS, len(with_events)), dtype=np.int64)
    users = with_events[places]
    items = histories.items[histories.ends[users[:NUM_ITEMS]] - 1]
    return Examples(recommender.user_ids.to_raw(users), recommender.item_ids.to_raw(items))


def facts(served: ServedModel, item: str) -> list[tuple[str, str]]:
    """Return the names and values of the item columns of an item, but for its id and its title."""
    place = int(served.run.recommender.item_ids.to_dense([item])[0]) - 1
    row = served.run.item_table.row(place, named=True)
    shown = {name: value for name, value in row.items() if name not in ("raw_id", "title")}
    return [(name, _text(value)) for name, value in shown.items() if value not in (None, "", [])]


def kind(served: ServedModel) -> str:
    """Return what a model is: its method, and the run that ranks what it finds, if there is one."""
    method, ranker = str(served.run.info["model"]), served.place.ranker
    return method if ranker is None else f"{method}, then {ranker.name}"


def headline(served: ServedModel) -> str:
    """Return the first figures of a run's evaluation as a line of text."""
    evaluations = served.run.evaluations()
    for split in ("test", *evaluations):
        if split in evaluations:
            metrics = evaluations[split].metrics
            shown = [f"{name} {metrics[name]:.4f}" for name in HEADLINES if name in metrics]
            return f"{', '.join(shown)} on {split}"
    return "not evaluated yet"


def report(served: ServedModel) -> Markup:
    """Return how a run learned and how well it ranks, as the run's report says it.

    Where the data lay at training time is left out: it is of no use here, and nobody's business.
    """
    if not has_plots():
        return Markup(NO_PLOTS)
    run = served.run
    data = {name: value for name, value in run.info["dataset"].items() if name != "path"}
    evaluations = {split: found.to_dict() for split, found in run.evaluations().items()}
    sections = stored_sections({**run.info, "dataset": data}, run.log(), evaluations)
    return Markup("\n".join(sections))


def _text(value: object) -> str:
    if isinstance(value, pl.Series | list | tuple):
        return ", ".join(str(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
