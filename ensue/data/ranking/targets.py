"""What a ranking model is to predict: labels that are a column, or made of one by a comparison.

```
click                        the column click; binary where its first values are 0 and 1 alone
rating:regression            the number in the column rating
rating>=4                    1 where the rating is 4 or more, else 0
rating>=4 as liked           the same, called liked
42=50000+.                   1 where column 42 is the text 50000+.
```

A row whose column is empty has no label for that task.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.feature_values import BadValueError, to_numbers
from ensue.data.ranking.schema import TaskKind
from ensue.errors import DataError, UsageError, did_you_mean

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NAME = re.compile(r"(?P<rest>.*\S)\s+as\s+(?P<name>[^\s/]+)\s*")
_KIND = re.compile(r"(?P<rest>.+):(?P<kind>binary|regression)")
_COMPARISON = re.compile(r"(?P<column>.+?)(?P<operator>>=|<=|>|<|=)(?P<value>.+)")


@dataclass(frozen=True)
class Comparison:
    """Whether a column is a text, or compares with a number."""

    column: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.operator}{self.value}"

    def evaluate(self, values: pl.Series) -> NDArray[np.float64]:
        """Return 0 or 1 for each value [n], NaN where there is none.

        Raises:
            BadValueError: a value is no number and is to be compared with one, or is a list.
        """
        if self.operator != "=":
            numbers = to_numbers(values)
            result = _OPERATORS[self.operator](numbers, float(self.value)).astype(np.float64)
            result[np.isnan(numbers)] = np.nan
            return result
        if values.dtype.is_nested() or values.dtype == pl.Binary:
            raise BadValueError(int(values.is_not_null().arg_max() or 0), "text or numbers")
        texts = values.cast(pl.String).str.strip_chars().replace("", None)
        is_equal = texts == self.value.strip()
        if (number := _to_number(self.value)) is not None:  # 1, 1.0 and "1" are one number
            is_equal |= (texts.cast(pl.Float64, strict=False) == number).fill_null(False)
        return is_equal.cast(pl.Float64).fill_null(float("nan")).to_numpy()


@dataclass(frozen=True)
class Target:
    """A task and where its labels are from."""

    name: str
    kind: TaskKind
    column: str
    comparison: Comparison | None
    reason: str
    weight: str | None = None

    def labels(self, values: pl.Series) -> NDArray[np.float64]:
        """Return labels [n], NaN where there is none.

        Raises:
            BadValueError: a value is no label of this task.
        """
        if self.comparison is not None:
            return self.comparison.evaluate(values)
        numbers = to_numbers(values)
        if self.kind == "binary":
            is_broken = ~(np.isnan(numbers) | (numbers == 0) | (numbers == 1))
            if is_broken.any():
                raise BadValueError(int(is_broken.argmax()), "0 and 1 alone")
        return numbers


def parse_comparison(text: str, columns: Sequence[str]) -> Comparison:
    """Return the comparison in "rating>=4".

    Raises:
        UsageError: it is none, or its column does not exist.
    """
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise UsageError(f"a comparison is COLUMN>=NUMBER or COLUMN=TEXT; got {text!r}.")
    column, sign, value = (match[name].strip() for name in ("column", "operator", "value"))
    _check_column(column, columns)
    if sign != "=" and _to_number(value) is None:
        raise UsageError(f"{sign} compares with a number; got {text!r}.")
    return Comparison(column, sign, value)


def parse_targets(
    texts: Sequence[str], weights: Mapping[str, str], sample: pl.DataFrame
) -> tuple[Target, ...]:
    """Return the targets, with the kinds that the first rows tell.

    Args:
        weights: task -> column of weights; "" is every other task.

    Raises:
        UsageError: a target has no meaning, its column does not exist, or two have one name.
    """
    if not texts:
        raise UsageError("a ranking dataset needs a target; got none. Pass --target (targets=...).")
    found = [_parse(text, sample) for text in texts]
    names = [target.name for target in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"targets differ in their names; {name!r} is there several times. Name them, as in "
                "'rating>=4 as liked'."
            )
    for task, column in weights.items():
        if task and task not in names:
            raise UsageError(
                f"weights are of a target; {task!r} is none.{did_you_mean(task, names)}"
            )
        _check_column(column, sample.columns)
    return tuple(
        Target(
            one.name,
            one.kind,
            one.column,
            one.comparison,
            one.reason,
            weights.get(one.name, weights.get("")),
        )
        for one in found
    )


def read_weights(values: pl.Series) -> NDArray[np.float64]:
    """Return weights [n].

    Raises:
        BadValueError: a value is no number of 0 or more.
    """
    numbers = to_numbers(values)
    is_broken = ~(numbers >= 0)
    if is_broken.any():
        raise BadValueError(int(is_broken.argmax()), "a number of 0 or more in every row")
    return numbers


def _parse(text: str, sample: pl.DataFrame) -> Target:
    rest, name = text.strip(), None
    if rest not in sample.columns and (named := _NAME.fullmatch(rest)):
        rest, name = named["rest"], named["name"]
    kind = None
    if rest not in sample.columns and (told := _KIND.fullmatch(rest)):
        rest, kind = told["rest"], told["kind"]
    if rest in sample.columns or not _COMPARISON.fullmatch(rest):
        _check_column(rest, sample.columns)
        task, reason = _kind(sample[rest], kind)
        return Target(_check_name(name or rest), task, rest, None, reason)
    if kind == "regression":
        raise UsageError(f"a comparison makes a binary target; got {text!r}.")
    comparison = parse_comparison(rest, sample.columns)
    return Target(
        _check_name(name or comparison.column), "binary", comparison.column, comparison,
        f"a comparison, {comparison}",
    )  # fmt: skip


def _kind(values: pl.Series, told: str | None) -> tuple[TaskKind, str]:
    if told is not None:
        return ("binary" if told == "binary" else "regression"), "as told"
    try:
        numbers = to_numbers(values)
    except BadValueError as error:
        raise DataError(
            f"target {values.name!r} must hold numbers; row {error.index + 1} has "
            f"{values[error.index]!r}. Compare it, as in '{values.name}={values[error.index]}'."
        ) from None
    there = numbers[~np.isnan(numbers)]
    if np.isin(there, [0.0, 1.0]).all():
        return "binary", "0 and 1 alone in the first rows"
    return "regression", "numbers"


def _check_column(column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise UsageError(
            f"targets and weights are columns of the input; {column!r} is none."
            + did_you_mean(column, columns)
        )


def _check_name(name: str) -> str:
    if "/" in name:
        raise UsageError(f"a target's name has no slash; got {name!r}. Name it with ' as NAME'.")
    return name


def _to_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
