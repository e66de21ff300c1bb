"""Sections that the report of every kind of run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ensue.evaluation.slices import SHOWN_OF_USERS
from ensue.runs.page import Mean, details, plots, section, settings_table, table
from ensue.runs.plots import draw_curve, draw_intervals

RUN_FACTS = ("preset", "fit", "seed", "epochs", "best_epoch", "seconds", "num_parameters")
RUN_GROUPS = ("config", "stream", "training", "dataset", "versions", "hardware")
MOST_CLIPPED = 6  # tensors whose factors are drawn


def learning_section(log: Sequence[Mapping[str, Any]], info: Mapping[str, Any]) -> str:
    """Return the loss and the validation metric by epoch; `log` is empty for a fitted model."""
    if not log:
        return section("Learning", "<p>This model is computed in one go: it has no epochs.</p>")
    best_epoch = info.get("best_epoch") or None  # 0 where nothing was validated
    metric = (info.get("training") or {}).get("metric")
    epochs = [int(line["epoch"]) for line in log]
    drawings = [
        draw_curve("training loss", epochs, [line["loss"] for line in log], marked_epoch=best_epoch)
    ]
    validated = [line for line in log if metric in line.get("validation", {})]
    if validated:
        drawings.append(
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
    return section("Learning", f"<p>{escape(sentence)}.</p>{plots(drawings)}")


def tasks_section(log: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, str]]) -> str:
    """Return the loss of each task by epoch, and what validation says of it; "" for one task."""
    if len(tasks) < 2 or not log:
        return ""
    drawings = []
    for task in tasks:
        name, metric = task["name"], "auc" if task["kind"] == "binary" else "rmse"
        lines = [line for line in log if name in line.get("task_losses", {})]
        values = [line["task_losses"][name] for line in lines]
        drawings.append(draw_curve(f"loss of {name}", _epochs(lines), values))
        full_name = f"{name}/{metric}"
        lines = [line for line in log if full_name in line.get("validation", {})]
        if lines:
            values = [line["validation"][full_name] for line in lines]
            title = f"{metric} of {name} on validation"
            drawings.append(draw_curve(title, _epochs(lines), values, series=1))
    return section("Tasks", plots(drawings))


def clipping_section(log: Sequence[Mapping[str, Any]]) -> str:
    """Return the factors that steps were shrunk by; "" where no optimizer shrinks any."""
    lines = [line for line in log if line.get("clipping")]
    if not lines:
        return ""
    lowest = {
        name: min(line["clipping"].get(name, 1.0) for line in lines)
        for name in lines[-1]["clipping"]
    }
    shown = sorted(lowest, key=lambda name: lowest[name])
    drawings = [
        draw_curve(
            f"factor of {name}", _epochs(lines), [line["clipping"].get(name, 1.0) for line in lines]
        )
        for name in shown[:MOST_CLIPPED]
        if lowest[name] < 1
    ]
    skipped = sum(line.get("skipped_steps", 0) for line in lines)
    explanation = (
        "<p>The mean factor that the steps of a tensor were shrunk by in an epoch: 1 where they "
        f"were taken as they were. Steps left out for gradients that were not finite: {skipped:,}."
        "</p>"
    )
    rows = [[name, Mean(lines[-1]["clipping"][name]), Mean(lowest[name])] for name in shown]
    factors = table(["tensor", "last epoch", "lowest epoch"], rows)
    return section("Clipping", explanation + plots(drawings) + details("all tensors", factors))


def _epochs(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    return [int(line["epoch"]) for line in lines]


def settings_section(info: Mapping[str, Any]) -> str:
    """Return what run.json says of the settings, the data and the machine."""
    groups = {"run": {name: info[name] for name in RUN_FACTS if info.get(name) is not None}}
    groups |= {name: info[name] for name in RUN_GROUPS if info.get(name)}
    parts = [
        details(name, settings_table(group), is_open=name == "config")
        for name, group in groups.items()
    ]
    return section("Settings", "".join(parts))


def users_section(split: str, evaluation: Mapping[str, Any]) -> str:
    """Return how users with few and with many targets are served; "" where they are all alike."""
    slices = evaluation.get("user_slices", {})
    if not slices:
        return ""
    means = {
        name: [
            Mean(part["metrics"][metric], interval_of(part, metric))
            for metric in (f"{shown}@{part['k']}" for shown in SHOWN_OF_USERS)
        ]
        for name, part in slices.items()
    }
    of_pap = [row[SHOWN_OF_USERS.index("pap")] for row in means.values()]
    drawing = draw_intervals(
        f"pap@k by number of targets, {split}",
        [f"{name}, pap@{part['k']}" for name, part in slices.items()],
        [mean.value or 0.0 for mean in of_pap],
        [mean.interval or (mean.value or 0.0, mean.value or 0.0) for mean in of_pap],
    )
    rows = [
        [name, slices[name]["users"], slices[name]["targets"], *row] for name, row in means.items()
    ]
    explanation = (
        "<p>Users by their number of targets. With at most k of them, pap@k counts all, as a "
        "partial AUC does; with more, only the first k, as precision@k does.</p>"
    )
    columns = ["", "users", "targets", *(f"{metric}@k" for metric in SHOWN_OF_USERS)]
    return section(
        "Users with few and many targets", explanation + plots([drawing]) + table(columns, rows)
    )


def interval_of(evaluation: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return the interval of a metric; None where there is none."""
    interval = evaluation.get("intervals", {}).get(name)
    return (interval[0], interval[1]) if interval else None
