"""Which features of an item its two views do not show: the augmentation of self-supervision.

Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021,
arXiv:2007.12865, sections 3.2 and 3.3. A seed feature and those most related to it are hidden
together (correlated feature masking, CFM), so that no view gives away what the other hides. One
draw holds for a whole batch: masks that differ by row would tell the rows apart.
Shapes: F features.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ensue.errors import ConfigError

MaskKind = Literal["cfm", "rfm", "no_complement", "dropout"]


def correlated_masks(
    information: NDArray[np.float64], num_correlated: int | None = None
) -> NDArray[np.bool_]:
    """Return masks [F, F]: row f hides feature f and the features most related to it.

    Ties go to the earlier feature.

    Args:
        information: [F, F], how related two features are; the diagonal does not matter.
        num_correlated: features hidden beside the seed; None is floor(F / 2), as in the paper, but
            0 of two features. At most F - 2: a view that shows nothing tells nothing.

    >>> correlated_masks(np.array([[0, 0.9, 0.1], [0.9, 0, 0.2], [0.1, 0.2, 0]])).tolist()
    [[True, True, False], [True, True, False], [False, True, True]]

    Raises:
        ConfigError: there are fewer than two features, or num_correlated does not fit.
    """
    count = len(information)
    check_features(count)
    size = min(count // 2, count - 2) if num_correlated is None else num_correlated
    if not 0 <= size <= count - 2:
        raise ConfigError(
            f"num_correlated must be 0 to {count - 2} with {count} features; got {size}."
        )
    others = np.array(information, dtype=np.float64)
    np.fill_diagonal(others, -np.inf)
    chosen = np.argsort(-others, axis=1, kind="stable")[:, :size]
    masks = np.eye(count, dtype=np.bool_)
    np.put_along_axis(masks, chosen, True, axis=1)
    return masks


def check_features(count: int) -> None:
    """Raise a ConfigError unless there are at least two features to tell apart."""
    if count < 2:
        raise ConfigError(
            f"masks need two features or more, item ids counted; there is {count}. Prepare the "
            "dataset with --items, or set ssl=none."
        )


def draw_masks(
    kind: MaskKind, masks: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return what the first and the second view of a batch hide [2, F].

    kind: "cfm" takes a row of `masks` and its complement; "rfm" a random half and its complement;
        "no_complement" two random halves drawn apart; "dropout" hides nothing, so that only the
        dropout of values tells the views apart.

    Args:
        masks: [F, F], from `correlated_masks`; the others than "cfm" read its size alone.
    """
    count = len(masks)
    if kind == "cfm":
        first = masks[rng.integers(count)]
        return np.stack([first, ~first])
    if kind == "rfm":
        first = _random_half(count, rng)
        return np.stack([first, ~first])
    if kind == "no_complement":
        return np.stack([_random_half(count, rng), _random_half(count, rng)])
    return np.zeros((2, count), dtype=np.bool_)


def _random_half(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mask [F] of floor(F / 2) features."""
    hidden = np.zeros(count, dtype=np.bool_)
    hidden[rng.permutation(count)[: count // 2]] = True
    return hidden
