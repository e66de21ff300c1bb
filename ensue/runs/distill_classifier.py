"""Distill a classifier by every method, over seeds, and say what of distillation helped.

```
DIR/distillation.json   settings, the table, the attribution and every seed's figures
DIR/report.html         a page about them
```
Shapes: n training and m test examples, R methods, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensue.config import make_config
from ensue.errors import UsageError
from ensue.evaluation.attribution import Attribution, attribute
from ensue.evaluation.distillation import calibration_error
from ensue.files import atomic_directory, write_json
from ensue.models.classifier import ClassifierConfig, Classifiers
from ensue.progress import note, track
from ensue.runs.classifier_data import ClassifierData, split_examples
from ensue.runs.distill_page import build_distillation_html
from ensue.runs.plots import has_plots
from ensue.runs.students import (
    ClassifierDistillationConfig,
    Outcome,
    accuracy,
    count_omegas,
    omega_edges,
    summarize,
    train_students,
)
from ensue.training.classifier import FitConfig, Lesson, fit_classifiers, predict
from ensue.training.distillation.classifier_methods import Teacher, choose_methods

FORMAT = 1


@dataclass(frozen=True)
class ClassifierDistillation:
    """What `distill_classifier` found.

    table: a row for each method. omega_counts: by method, of the omegas of all seeds in the bins
    between the edges; what lies outside is in the first and the last one.
    """

    settings: dict[str, Any]
    teacher: dict[str, float]
    table: list[dict[str, Any]]
    attribution: Attribution | None
    outcomes: list[Outcome]
    omega_edges: list[float]
    omega_counts: dict[str, list[int]]
    superclasses: list[int] | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {"format": FORMAT, **asdict(self)}


def distill_classifier(
    data: ClassifierData,
    *,
    teacher: Teacher | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    **settings: Any,
) -> ClassifierDistillation:
    """Train a student by each method with each seed, all on the same teacher, and compare them.

    With one seed, the students of all methods have the same first weights and see the same
    batches. A seed decides first weights, order of the examples and the permutations of kd-perm.
    Accuracies are of the test part; nothing is chosen by them.

    Args:
        teacher: by default one is trained on the labels, with the settings `teacher_*` and the
            first seed, for all its epochs.
        methods: names of METHODS in ensue.training.distillation.classifier_methods; None is all
            that can be made: kd-rel and kd-pt+rel need super-classes, kd-sim and kd-pt+sim a
            teacher whose output weights are known.
        settings: fields of `ClassifierDistillationConfig`.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        RunError: a loss is not finite.
    """
    config = make_config(ClassifierDistillationConfig, settings)
    if not seeds:
        raise UsageError("distill_classifier needs at least one seed; got none.")
    if config.k is not None and config.k > data.num_classes:
        raise UsageError(f"k must be at most {data.num_classes}, the classes; got {config.k}.")
    knows_weights = teacher is None or teacher.output_weights is not None
    chosen = choose_methods(methods, knows_weights, data.superclasses)
    if teacher is None:
        teacher = train_teacher(data, config, seed=seeds[0])
    _check_teacher(teacher, data)
    outcomes: list[Outcome] = []
    omegas: dict[str, list[Tensor]] = {name: [] for name in chosen}
    with track("distill", config.epochs * len(seeds), unit="epochs") as advance:
        for seed in seeds:
            found = train_students(
                data, teacher, chosen, config, seed=seed, on_epoch=lambda _: advance(1)
            )
            for outcome, omega in found:
                outcomes.append(outcome)
                omegas[outcome.method].append(omega)
    edges = omega_edges(omegas)
    accuracies = {name: [o.accuracy for o in outcomes if o.method == name] for name in chosen}
    return ClassifierDistillation(
        settings={**config.model_dump(mode="json"), "methods": chosen, "seeds": list(seeds)},
        teacher={
            "accuracy": accuracy(teacher.test_logits, data.test_labels),
            "calibration_error": calibration_error(teacher.test_logits, data.test_labels),
            "training_accuracy": accuracy(teacher.logits, data.labels),
        },
        table=summarize(outcomes),
        attribution=attribute(accuracies),
        outcomes=outcomes,
        omega_edges=edges.tolist(),
        omega_counts=count_omegas(omegas, edges),
        superclasses=None if data.superclasses is None else data.superclasses.tolist(),
    )


def distill_arrays(
    features: Any,
    labels: Any,
    *,
    out: str | Path,
    superclasses: Any = None,
    test_features: Any = None,
    test_labels: Any = None,
    test_share: float = 0.2,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3),
    overwrite: bool = False,
    **settings: Any,
) -> ClassifierDistillation:
    """Run `distill_classifier` on arrays and write the folder; `load_arrays` reads a .npz.

    Args:
        features, labels: [n, ...] numbers, which are taken as they are (scale them), and [n] in
            0..K-1.
        superclasses: [K], the super-class of each class.
        test_features, test_labels: the test part; without them, `test_share` of the examples,
            drawn with the first seed.

    Raises:
        UsageError: the folder exists, or as in `distill_classifier`.
        DataError: the arrays do not belong together.
    """
    if not seeds:
        raise UsageError("distill_arrays needs at least one seed; got none.")
    if test_features is None and test_labels is None:
        data = split_examples(features, labels, superclasses, share=test_share, seed=seeds[0])
    else:
        data = ClassifierData.make(features, labels, test_features, test_labels, superclasses)
    with atomic_directory(out, marker="distillation.json", overwrite=overwrite) as folder:
        found = distill_classifier(data, methods=methods, seeds=seeds, **settings)
        write_json(folder / "distillation.json", found.to_dict())
        if has_plots():
            html = build_distillation_html(found.to_dict(), title=f"Distillation, {Path(out).name}")
            (folder / "report.html").write_text(html, encoding="utf-8")
        else:
            note("No report.html: its plots need matplotlib; run pip install 'ensue[report]'.")
    return found


def train_teacher(
    data: ClassifierData, config: ClassifierDistillationConfig, *, seed: int
) -> Teacher:
    """Return what a teacher says that was trained on the labels alone."""
    generator = torch.Generator().manual_seed(seed)
    model = Classifiers(
        ClassifierConfig(channels=config.teacher_channels, hidden=config.teacher_hidden),
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        generator=generator,
    )
    none = torch.zeros(len(data.labels), data.num_classes)
    fit = FitConfig(
        epochs=config.teacher_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    with track("teacher", fit.epochs, unit="epochs") as advance:
        fit_classifiers(
            model,
            data.features,
            data.labels,
            [Lesson(none, 0.0)],
            fit,
            generator=generator,
            on_epoch=lambda _: advance(1),
        )
    logits, test_logits = (
        predict(model, part)[:, 0] for part in (data.features, data.test_features)
    )
    return Teacher(logits, test_logits, model.output_weights[0].detach())


def _check_teacher(teacher: Teacher, data: ClassifierData) -> None:
    for name, logits, labels in (
        ("logits", teacher.logits, data.labels),
        ("test_logits", teacher.test_logits, data.test_labels),
    ):
        if logits.shape != (len(labels), data.num_classes):
            raise UsageError(
                f"a teacher's {name} must be [{len(labels)}, {data.num_classes}], examples and "
                f"classes; got {list(logits.shape)}."
            )
