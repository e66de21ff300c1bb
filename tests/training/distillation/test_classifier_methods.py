"""Methods by name: which can be made of what, and that each makes its own target."""

from __future__ import annotations

import pytest
import torch

from ensue.errors import UsageError
from ensue.losses.soft_targets import (
    class_mean_table,
    pt_shared_target,
    pt_target,
    rel_table,
    sim_table,
    teacher_target,
    topk_target,
)
from ensue.training.distillation.classifier_methods import (
    METHODS,
    DistillationConfig,
    Teacher,
    choose_methods,
    make_lessons,
)

SUPER = torch.tensor([0, 0, 1, 1, 1])


def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(torch.randn(12, 5), torch.randn(3, 5), torch.randn(5, 4))


LABELS = torch.arange(12) % 5


def test_every_method_makes_its_target() -> None:
    given = teacher()
    config = DistillationConfig(temperature=2.0, pt_temperature=3.0, k=2, smoothing=0.2)
    lessons = make_lessons(
        list(METHODS), config, given, LABELS, SUPER, generator=torch.Generator().manual_seed(0)
    )
    found = dict(zip(METHODS, lessons, strict=True))
    logits, weights = given.logits, given.output_weights
    sim = sim_table(weights, sim_temperature=0.15)
    rel = rel_table(SUPER, b1=1.0, b2=0.2, b3=0.02, scale_rows=True)
    for name, expected in {
        "kd": teacher_target(logits, temperature=2.0),
        "kd-pt": pt_target(logits, LABELS, pt_temperature=3.0),
        "kd-sim": sim[LABELS],
        "kd-rel": rel[LABELS],
        "kd-pt+sim": pt_shared_target(logits, LABELS, sim, pt_temperature=3.0),
        "kd-pt+rel": pt_shared_target(logits, LABELS, rel, pt_temperature=3.0),
        "kd-topk": topk_target(logits, 2, temperature=2.0).dense(5),
        "kd-classavg": class_mean_table(logits, LABELS, temperature=2.0)[LABELS],
    }.items():
        assert torch.equal(found[name].soft_target, expected), name
        lesson = found[name]
        assert (lesson.teacher_weight, lesson.temperature, lesson.scale) == (0.9, 2.0, 4.0)
    permuted = found["kd-perm"].soft_target
    plain = found["kd"].soft_target
    assert torch.equal(permuted.sort(dim=1).values, plain.sort(dim=1).values)
    assert not torch.equal(permuted, plain)
    for name, weight in (("hard", 0.0), ("ls", 0.2)):
        assert (found[name].teacher_weight, found[name].temperature) == (weight, 1.0)


def test_defaults_and_the_switches() -> None:
    given = teacher()
    generator = torch.Generator()
    config = DistillationConfig(scale=1.0, force_label=True, center_rows=False, sim_power=0.5)
    names = ["kd-sim", "kd-topk"]
    sim, topk = make_lessons(names, config, given, LABELS, None, generator=generator)
    assert topk.scale == 1.0
    # A fifth of five classes is one, and it is the label.
    expected = topk_target(given.logits, 1, temperature=4.0, labels=LABELS).dense(5)
    assert torch.equal(topk.soft_target, expected)
    plain = sim_table(given.output_weights, sim_temperature=0.15, power=0.5, center_rows=False)
    assert torch.equal(sim.soft_target, plain[LABELS])


def test_which_methods_can_be_made() -> None:
    assert choose_methods(None, True, SUPER) == list(METHODS)
    few = choose_methods(None, False, None)
    assert {"kd-sim", "kd-rel", "kd-pt+sim", "kd-pt+rel"}.isdisjoint(few)
    assert choose_methods(["kd", "hard"], False, None) == ["hard", "kd"]
    with pytest.raises(UsageError, match="'kd-rel' needs super-classes"):
        choose_methods(["kd-rel"], True, None)
    with pytest.raises(UsageError, match=r"'kd-pt\+sim' needs the teacher's output weights"):
        choose_methods(["kd-pt+sim"], False, SUPER)
    with pytest.raises(UsageError, match=r"'kd-top' does not exist\. Did you mean 'kd-topk'"):
        choose_methods(["kd-top"], True, None)
