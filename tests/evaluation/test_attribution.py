"""Shares of a gain: by hand, and refusals where nothing can be said."""

from __future__ import annotations

import re

import pytest

from ensue.evaluation.attribution import attribute

RUNS = {
    "hard": [0.50, 0.52],
    "ls": [0.54, 0.56],
    "kd-pt": [0.60, 0.61],
    "kd-sim": [0.54, 0.60],
    "kd": [0.70, 0.72],
}


def test_parts_by_hand() -> None:
    found = attribute(RUNS)
    assert found is not None
    assert found.gain.value == pytest.approx(0.20)
    assert found.gain.standard_error == pytest.approx(0.0, abs=1e-12)
    values = {part.name: part.value for part in found.parts}
    assert values == pytest.approx(
        {"smoothing": 0.04, "instance": 0.055, "domain": 0.02, "interaction": 0.085}
    )
    assert sum(part.share or 0.0 for part in found.parts) == pytest.approx(1.0)
    errors = {part.name: part.standard_error for part in found.parts}
    assert errors["instance"] == pytest.approx(0.005)  # .06 and .05
    assert errors["domain"] == pytest.approx(0.02)  # 0 and .04
    assert "smoothing (ls - hard) +0.0400 or 20%" in found.sentence
    assert "domain (kd-sim - ls) +0.0200 or 10%" in found.sentence
    assert found.sentence.endswith("Within two standard errors of nothing: domain.")


def test_class_means_come_before_cosines() -> None:
    found = attribute({**RUNS, "kd-classavg": [0.58, 0.58]})
    assert found is not None
    assert found.parts[2].definition == "kd-classavg - ls"
    assert found.parts[2].value == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("kd", "sentence"),
    [
        ([0.60, 0.50], r"kd gains \+0\.0400 over hard labels \(standard error 0\.0600\), no more"),
        ([0.40, 0.42], r"kd loses 0\.1000 against hard labels .*: there is no gain to share\."),
    ],
)
def test_no_shares_of_no_gain(kd: list[float], sentence: str) -> None:
    found = attribute({**RUNS, "kd": kd})
    assert found is not None
    assert [part.share for part in found.parts] == [None] * 4
    assert re.search(sentence, found.sentence)


def test_one_seed_says_nothing() -> None:
    found = attribute({name: values[:1] for name, values in RUNS.items()})
    assert found is not None
    assert found.gain.standard_error is None
    assert "with one seed" in found.sentence


@pytest.mark.parametrize("lacking", ["hard", "ls", "kd-pt", "kd", "kd-sim"])
def test_without_a_method_there_is_none(lacking: str) -> None:
    assert attribute({name: values for name, values in RUNS.items() if name != lacking}) is None
