"""The folder of a work that can be continued: new, replaced, or holding the same work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensue.errors import UsageError
from ensue.files import write_json
from ensue.progress import note


def open_output(
    out: Path,
    marker: str,
    identity: Mapping[str, Any],
    *,
    work: str,
    resume: bool,
    overwrite: bool,
) -> bool:
    """Make the folder ready and return whether there is a work to continue.

    Args:
        marker: the file that says what the work is, so that nothing else is continued by mistake
            and no other folder is replaced.
        identity: what the work is, as JSON holds it.
        work: what to call it in a message ("training").

    Raises:
        UsageError: the folder holds something else, or a work nobody asked to continue or replace.
    """
    file = out / marker
    if resume and file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in identity if stored.get(name) != identity[name]]
        if changed:
            article = "an" if work[0] in "aeio" else "a"
            raise UsageError(
                f"{article} {work} is resumed with the settings it was started with; {out} differs "
                f"in {', '.join(changed)}. Use the same command, or another output."
            )
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not file.is_file():
            raise UsageError(
                f"the output must be a new folder; {out} exists and holds no {work}. "
                "Choose another output."
            )
        if not overwrite:
            raise UsageError(
                f"the output must be a new folder; {out} exists. Continue it with --resume, "
                "replace it with --overwrite, or choose another output."
            )
        shutil.rmtree(out)
    if resume:
        note(f"{out} holds no {work} to resume; starting from the beginning.")
    write_json(file, identity)
    return False


def open_training(out: Path, identity: Mapping[str, Any], *, resume: bool, overwrite: bool) -> bool:
    """Make the folder of a run ready, and return whether there is a training to continue.

    Raises:
        UsageError: as in `open_output`, or the training is finished.
    """
    is_resumed = open_output(
        out, "settings.json", identity, work="training", resume=resume, overwrite=overwrite
    )
    if is_resumed and (out / "run.json").is_file():
        raise UsageError(f"a training is resumed when it is unfinished; {out} is finished.")
    return is_resumed
