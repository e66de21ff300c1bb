"""Classes in super-classes with a known posterior, for what a teacher can pass on.

Each class has a template: sqrt(w) times the direction of its super-class plus sqrt(1 - w) times its
own, all directions orthogonal; an example is a template plus Gaussian noise. Templates have unit
length, so the posterior of a class is softmax(template . x / noise^2): a perfect teacher is a
linear one.
Shapes: n examples, K classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SuperclassProblem:
    """templates [K, D], superclasses [K] int64, and the standard deviation of the noise."""

    templates: NDArray[np.float64]
    superclasses: NDArray[np.int64]
    noise: float

    def draw(
        self, count: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return features [n, D] and labels [n], uniform over the classes."""
        num_classes, dim = self.templates.shape
        labels = rng.integers(0, num_classes, count)
        features = self.templates[labels] + self.noise * rng.standard_normal((count, dim))
        return features.astype(np.float32), labels

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return [n, K], whose softmax is the posterior."""
        scaled = features @ self.templates.T / self.noise**2
        return scaled.astype(np.float32)


def make_superclass_problem(
    rng: np.random.Generator,
    *,
    num_superclasses: int = 5,
    num_classes: int = 20,
    dim: int = 64,
    shared: float = 0.6,
    noise: float = 0.35,
) -> SuperclassProblem:
    """Return a problem with random directions.

    Args:
        num_classes: a multiple of num_superclasses; their sum is at most dim.
        shared: w, the inner product of two templates of one super-class.
    """
    if num_classes % num_superclasses or num_superclasses + num_classes > dim:
        raise ValueError(
            "make_superclass_problem needs super-classes of one size, and a dim of at least "
            f"classes and super-classes together; got {num_classes} classes in "
            f"{num_superclasses} super-classes, dim {dim}"
        )
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0].T
    superclasses = np.arange(num_classes) // (num_classes // num_superclasses)
    own = directions[num_superclasses : num_superclasses + num_classes]
    templates = shared**0.5 * directions[superclasses] + (1 - shared) ** 0.5 * own
    return SuperclassProblem(templates, superclasses.astype(np.int64), noise)
