"""What Ensue raises when the cause lies outside it.

```
EnsueError
|-- UsageError     an argument, a flag or a combination of them
|-- ConfigError    a setting of a method: unknown name, wrong type, out of range
|-- DataError      an input file or a dataset directory
|-- RunError       a run directory or something stored in it
|   `-- ToldError  what the first of several processes has met, and says
`-- ExtraError     an optional dependency that is not installed
```

Each message is one sentence of the form "what must hold; what we got; what to do". The command
line prints it alone and exits with 2; anything that is not an EnsueError is our fault: exit 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EnsueError(Exception):
    """Base of every error a user can cause and repair."""


class UsageError(EnsueError, ValueError):
    """An argument or a combination of arguments that has no meaning."""


class ConfigError(EnsueError, ValueError):
    """A setting that does not exist, does not parse or is out of range."""


class DataError(EnsueError):
    """An input file or a dataset directory that cannot be used as it is."""


class RunError(EnsueError):
    """A run directory, or something stored in it, that cannot be used as it is."""


class ToldError(RunError):
    """What the first of several processes has met; it says so, and the others need not."""


class ExtraError(EnsueError, ImportError):
    """An optional dependency is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"run pip install 'ensue[{extra}]'."
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known name, or the list of known names.

    >>> did_you_mean("num_head", ["dim", "num_heads"])
    " Did you mean 'num_heads'?"
    >>> did_you_mean("zzz", ["dim", "num_heads"])
    ' Known: dim, num_heads.'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."
