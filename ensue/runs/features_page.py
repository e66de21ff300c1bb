"""The part of a report on the features of items: how much they say about each other."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ensue.models.base import Model
from ensue.models.retrieval.two_tower import TwoTower
from ensue.runs.page import Mean, beside, section, table
from ensue.runs.plots import draw_matrix
from ensue.training.two_tower import feature_information, feature_masks


def measure_information(model: Model) -> dict[str, Any]:
    """Return how related the features of a model's items are, and what is masked together.

    Empty for a model that reads less than two features.
    """
    if not isinstance(model, TwoTower) or len(model.item_embedding.names) < 2:
        return {}
    found = feature_information(model)
    masks: Any = feature_masks(found, model.config) if model.config.ssl == "cfm" else []
    names = found.names
    return {
        **found.to_dict(),
        "kind": model.config.information,
        "masked_together": {
            names[seed]: [name for name, is_hidden in zip(names, row, strict=True) if is_hidden]
            for seed, row in enumerate(masks)
        },
    }


def features_section(found: Mapping[str, Any]) -> str:
    """Return the section on what `measure_information` found; nothing for {}."""
    if not found:
        return ""
    names, kind = found["features"], found["kind"]
    rows: list[list[object]] = [
        [name, *(Mean(value) for value in values), Mean(entropy)]
        for name, values, entropy in zip(names, found[kind], found["entropies"], strict=True)
    ]
    drawing = draw_matrix("mutual information, normalized", found["normalized"], borders=[])
    explanation = (
        "<p>How much two features of an item say about each other, in nats where it is not "
        "normalized. The entropy of a feature is the most that anything can say about it.</p>"
    )
    masked = "".join(
        f"<li>{escape(seed)}: {escape(', '.join(hidden))}</li>"
        for seed, hidden in found["masked_together"].items()
    )
    if masked:
        masked = f"<p>Hidden together, by the feature drawn first:</p><ul>{masked}</ul>"
    body = beside(drawing, table(["", *names, "entropy"], rows))
    return section("Features of items", explanation + body + masked)
