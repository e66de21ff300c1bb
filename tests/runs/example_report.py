"""A run as plain dictionaries, small enough to check by eye."""

from __future__ import annotations

from typing import Any

from ensue.runs.report import Example

INFO: dict[str, Any] = {
    "model": "caser",
    "config": {"dim": 50, "heights": [1, 2, 3], "activation": "relu"},
    "training": {"metric": "map", "epochs": 30, "learning_rate": 0.001, "clip_norm": None},
    "dataset": {
        "name": "made data",
        "path": "data/made",
        "hash": "sha256:0f3a",
        "counts": {"users": 5000, "items": 2000, "interactions": 200000},
    },
    "seed": 7,
    "num_parameters": 844121,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "hardware": {"cpu": "a processor", "cores": 2},
    "created": "2026-11-20T10:00:00+00:00",
    "best_epoch": 4,
}
LOG = [
    {
        "epoch": epoch,
        "loss": 1.4 / epoch**0.5,
        "seconds": 2.5,
        "examples": 160000,
        "examples_per_s": 64000.0,
        "peak_memory_bytes": 3 * 10**8,
        "validation": {"map": 0.12 - 0.004 * abs(epoch - 4), "ndcg@10": 0.2},
    }
    for epoch in range(1, 7)
]
METRICS = {"map": 0.1134, "mrr": 0.2571, "ndcg@10": 0.1832, "recall@10": 0.2211, "hr@10": 0.31}
EVALUATION: dict[str, Any] = {
    "metrics": METRICS,
    "intervals": {name: [value - 0.004, value + 0.005] for name, value in METRICS.items()},
    "coverage": {"coverage@10": 0.625},
    "protocol": {
        "split": "test",
        "candidates": "full catalogue",
        "num_candidates": 2000,
        "formulas": {"map": "1/|R| sum_j j/r_j"},
        "notes": ["The split sees other users' future."],
    },
    "slices": {
        name: {
            "items": items,
            "users": 4000,
            "targets": 9000,
            "metrics": {"recall@10": value, "ndcg@10": value * 0.8, "map": value * 0.5},
            "intervals": {"recall@10": [value - 0.01, value + 0.012]},
        }
        for name, items, value in (("head", 60, 0.31), ("torso", 290, 0.14), ("tail", 1650, 0.05))
    }
    | {"new": {"items": 0, "users": 0, "targets": 0, "metrics": {}, "intervals": {}}},
    "user_slices": {
        name: {
            "k": 10,
            "users": users,
            "targets": 3 * users,
            "metrics": dict.fromkeys(
                [f"{metric}@10" for metric in ("precision", "recall", "ndcg", "pap", "pauc")], value
            ),
            "intervals": {"pap@10": [value - 0.02, value + 0.01]},
        }
        for name, users, value in (("targets<=10", 3600, 0.41), ("targets>10", 400, 0.23))
    },
}
EXAMPLES = [
    Example("user u0042", ["Steel kettle", "Tea pot & cups"], ["Tea filter", "Sugar"], [2.5, 1.25]),
    Example("a history nobody has", ["<b>Boots</b>"], ["Socks", "Laces"], [9.0, 8.0]),
]
