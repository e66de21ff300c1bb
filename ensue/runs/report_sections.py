"""Sections that the report of every kind of run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ensue.runs.page import details, plots, section, settings_table
from ensue.runs.plots import draw_curve

RUN_FACTS = ("preset", "fit", "seed", "epochs", "best_epoch", "seconds", "num_parameters")
RUN_GROUPS = ("config", "training", "dataset", "versions", "hardware")


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


def settings_section(info: Mapping[str, Any]) -> str:
    """Return what run.json says of the settings, the data and the machine."""
    groups = {"run": {name: info[name] for name in RUN_FACTS if info.get(name) is not None}}
    groups |= {name: info[name] for name in RUN_GROUPS if info.get(name)}
    parts = [
        details(name, settings_table(group), is_open=name == "config")
        for name, group in groups.items()
    ]
    return section("Settings", "".join(parts))
