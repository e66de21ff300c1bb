"""Ensue: from a log file to recommendations that can be trusted.

Names are imported when they are first used: `import ensue` itself loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensue.data.dataset import Dataset
    from ensue.errors import EnsueError

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "EnsueError",
    "__version__",
]

_HOMES = {
    "Dataset": "ensue.data.dataset",
    "EnsueError": "ensue.errors",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported from its home; later uses find it here at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ensue' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
