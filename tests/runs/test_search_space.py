"""What a search may try: declared, given, checked."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.errors import EnsueError
from ensue.models.space import Choice, Range
from ensue.models.table import METHODS, get_preset
from ensue.runs.search_space import parse_ranges, resolve_space
from ensue.runs.train import resolve_settings
from ensue.runs.trials import Trials

PRESETS = [(model, preset) for model, method in METHODS.items() for preset in method.presets]


@pytest.mark.parametrize(("model", "preset"), PRESETS)
def test_every_preset_is_allowed(model, preset):
    resolve_settings(model, get_preset(model, preset))  # a name or value that does not fit raises


@pytest.mark.parametrize("model", [name for name, method in METHODS.items() if method.space])
def test_every_declared_space_is_allowed(model):
    space = resolve_space(model, {}, {})
    assert list(space) == list(METHODS[model].space)
    for name, declared in METHODS[model].space.items():
        if isinstance(declared, Range):
            assert space[name] == Range(declared.low, declared.high, bool(declared.log))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dim=16..64", Range(16, 64)),
        ("dropout=.1..0.5", Range(0.1, 0.5)),
        ("learning_rate = 1e-4 .. 1e-2", Range(1e-4, 1e-2)),
        ("dropout=-1..1", Range(-1, 1)),
        ("loss=mean,sum", Choice(("mean", "sum"))),
        ("dim=16, 32", Choice((16, 32))),
        ("num_negatives=null,3", Choice((None, 3))),
        ("layers=[1,2],[3]", Choice(([1, 2], [3]))),
    ],
)
def test_parse_ranges(text, expected):
    assert list(parse_ranges([text]).values()) == [expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dim", r"--range takes NAME=LOW..HIGH or NAME=VALUE,VALUE,...; got 'dim'."),
        ("=1..2", r"--range takes NAME=LOW..HIGH or NAME=VALUE,VALUE,...; got '=1..2'."),
        ("dim=", r"--range takes NAME=LOW..HIGH or NAME=VALUE,VALUE,...; got 'dim='."),
        ("dim=a..b", r"--range NAME=LOW..HIGH takes two numbers; got 'dim=a..b'."),
        ("dim=1..", r"--range NAME=LOW..HIGH takes two numbers; got 'dim=1..'."),
        ("dim=1..nan", r"--range NAME=LOW..HIGH takes two numbers; got 'dim=1..nan'."),
        ("dmi=1..2", r"caser has no setting 'dmi'. Did you mean 'dim'?"),
        ("dim=64..16", r"a range needs LOW < HIGH; 'dim' has 64..16."),
        ("dim=16..16", r"a range needs LOW < HIGH; 'dim' has 16..16."),
        (
            "dim=16",
            r"a range needs two values or more; 'dim' has [16]. Use --set dim=VALUE for one.",
        ),
        (
            "loss=1..2",
            r"a range LOW..HIGH needs a setting that is a number; 'loss' is not. "
            r"List its values: --range loss=A,B.",
        ),
        (
            "dim=0..16",
            r"every value of a range must be allowed; 0 of 'dim' is not: "
            r"input should be greater than or equal to 1.",
        ),
        (
            "dim=1.5..16",
            r"every value of a range must be allowed; 1.5 of 'dim' is not: input should be a "
            r"valid integer, got a number with a fractional part.",
        ),
        (
            "loss=mean,sun",
            r"every value of a range must be allowed; 'sun' of 'loss' is not: "
            r"input should be 'mean' or 'sum'.",
        ),
        (
            "metric=map,mrr",
            r"trials are compared by one metric; choose it with --set metric=NAME.",
        ),
        (
            "window=2..3",
            r"a setting is fixed or searched; 'window' is both. Leave out --set or --range.",
        ),
    ],
)
def test_bad_ranges(text, message):
    with pytest.raises(EnsueError) as error:
        resolve_space("caser", {"window": 5}, parse_ranges([text]))
    assert str(error.value) == message


def test_a_log_scale_needs_positive_numbers():
    with pytest.raises(EnsueError, match=r"LOW > 0; 'dropout' has 0.0..0.5"):
        resolve_space("caser", {}, {"dropout": Range(0, 0.5, log=True)})


def test_neither_range_nor_choice():
    with pytest.raises(EnsueError, match=r"is a Range or a Choice .*; 'dim' has \(8, 16\)."):
        resolve_space("caser", {}, {"dim": (8, 16)})


def test_a_model_without_a_space_needs_a_range():
    message = "a search needs a setting to vary; popularity has none left. Give one with --range."
    with pytest.raises(EnsueError, match=message):
        resolve_space("popularity", {}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dim=8..32", Range(8, 32, log=True)),  # as declared
        ("weight_decay=0..1e-3", Range(0.0, 1e-3, log=False)),  # declared, and impossible
        ("dropout=0..0.5", Range(0.0, 0.5, log=False)),  # a whole number for a real one
        ("dropout=0.001..0.5", Range(0.001, 0.5, log=True)),  # over decades
        ("batch_size=64..128", Range(64, 128, log=False)),  # not declared
        ("clip_norm=1..10", Range(1.0, 10.0, log=False)),  # a number or None
        ("patience=2.0..5.0", Range(2, 5, log=False)),
    ],
)
def test_type_and_scale_of_a_range(text, expected):
    (name, found), *_ = (
        item
        for item in resolve_space("caser", {}, parse_ranges([text])).items()
        if item[0] == text.split("=")[0]
    )
    assert (name, found) == (text.split("=")[0], expected)
    if isinstance(expected.low, int):
        assert isinstance(found.low, int)


def test_fixed_settings_are_not_searched():
    assert "dim" not in resolve_space("bpr", {"dim": 8}, {})
    assert "dim" in resolve_space("bpr", {}, {})


@settings(deadline=None, max_examples=40)
@given(
    low=st.integers(1, 50),
    width=st.integers(1, 500),
    log=st.booleans(),
    rate=st.tuples(st.floats(1e-6, 1e-3), st.floats(2e-3, 1.0)),
    seed=st.integers(0, 2**32),
)
def test_suggestions_stay_in_their_ranges(low, width, log, rate, seed):
    given_space = {
        "dim": Range(low, low + width, log=log),
        "learning_rate": Range(*rate, log=log),
        "clip_norm": Choice((None, 1.0, 5)),
    }
    space = resolve_space("bpr", {}, given_space)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = Trials(optuna.create_study(direction="maximize"), space, seed)
    for _ in range(3):
        trial, suggested = trials.ask()
        assert low <= suggested["dim"] <= low + width
        assert rate[0] <= suggested["learning_rate"] <= rate[1]
        assert suggested["clip_norm"] in (None, 1.0, 5)
        resolve_settings("bpr", suggested)
        trials.tell(trial, "complete", suggested["learning_rate"], epochs=1, seconds=0.0)
