"""The command `ensue`: one verb per file, and how each ends.

Exit codes: 0 done, 2 wrong use or bad input, 3 a limit that the caller set is exceeded, 1 a fault
of Ensue; 130 interrupted and 141 the reader of our output went away, as shells count them.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ensue import __version__
from ensue.cli.ablate import ablate
from ensue.cli.add_items import add_items
from ensue.cli.audit import audit
from ensue.cli.cluster import cluster
from ensue.cli.compare import compare
from ensue.cli.demo import demo
from ensue.cli.distill import distill
from ensue.cli.encode import encode
from ensue.cli.evaluate import evaluate
from ensue.cli.export import export
from ensue.cli.fetch import fetch
from ensue.cli.index import index
from ensue.cli.longitudinal import longitudinal
from ensue.cli.output import print_text
from ensue.cli.plan import plan
from ensue.cli.predict import predict
from ensue.cli.prepare import prepare
from ensue.cli.profile import profile
from ensue.cli.recommend import recommend
from ensue.cli.report import report
from ensue.cli.serve import serve
from ensue.cli.similar import similar
from ensue.cli.stability import stability
from ensue.cli.tradeoff import tradeoff
from ensue.cli.train import train
from ensue.cli.tune import tune
from ensue.errors import EnsueError, ToldError
from ensue.progress import is_first_process, note

GRACE_SECONDS = 10.0  # in which torchrun notices that another process has failed
# An OSError with one of these lies with the caller: no permission, or no room on the disk.
_CALLERS_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
}


class _Verbs(TyperGroup):
    """Runs a verb; an interruption and a closed pipe end it quietly."""

    def invoke(self, ctx: Any) -> Any:
        """Return what the verb returns."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            _discard_output()
            raise typer.Exit(141) from None


app = typer.Typer(
    name="ensue",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_text(f"ensue {__version__}")
        raise typer.Exit


@app.callback()
def _ensue(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """From a log file to recommendations that can be trusted."""


app.command()(prepare)
app.command()(fetch)
app.command()(profile)
app.command()(train)
app.command()(tune)
app.command()(distill)
app.command()(tradeoff)
app.command()(ablate)
app.command()(stability)
app.command()(longitudinal)
app.command()(plan)
app.command()(evaluate)
app.command()(compare)
app.command()(audit)
app.command()(encode)
app.command()(cluster)
app.command()(index)
app.command()(recommend)
app.command()(predict)
app.command()(serve)
app.command()(similar)
app.command(name="add-items")(add_items)
app.command()(export)
app.command()(report)
app.command()(demo)


def main() -> None:
    """Run the command line and exit."""
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader left before the last lines
        _discard_output()
        code = 141
    sys.exit(code)


def _run() -> int:
    """Return the exit code of the command line."""
    try:
        app()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    except EnsueError as error:
        _tell(error)
        return 2
    except OSError as error:
        if error.errno not in _CALLERS_ERRNOS:
            return _report_fault(error)
        note(f"error: the operating system refused: {error}.")
        return 2
    except Exception as error:
        return _report_fault(error)
    return 0


def _tell(error: EnsueError) -> None:
    """Print an error; of several processes the first one alone, unless it goes on without one.

    Where the first one has failed too, torchrun ends the others while they wait here.
    """
    if is_first_process():
        note(f"error: {error}")
        return
    time.sleep(GRACE_SECONDS)
    if not isinstance(error, ToldError):
        print(f"error on worker {os.environ['RANK']}: {error}", file=sys.stderr, flush=True)


def _report_fault(error: Exception) -> int:
    """Print what a bug report needs, and return the exit code."""
    traceback.print_exception(type(error), error, error.__traceback__)
    note(
        f"\nensue {__version__} failed with {type(error).__name__}. This is a fault of Ensue, not "
        "of your input: please report it with the command and the text above."
    )
    return 1


def _discard_output() -> None:
    """Point standard output at nothing, so that Python's own flush at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
