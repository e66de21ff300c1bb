"""log.jsonl: one line an epoch; TensorBoard event files where asked for."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from ensue.errors import ExtraError
from ensue.files import atomic_file


class TrainingLog:
    """Appends epochs to DIR/log.jsonl, and to DIR/tensorboard when `tensorboard` is True.

    Args:
        num_epochs: how many lines an earlier, interrupted run may keep; later lines are dropped, so
            that a resumed run has each epoch once.

    Raises:
        ExtraError: TensorBoard is asked for and not installed.
    """

    def __init__(self, directory: Path, *, num_epochs: int, tensorboard: bool) -> None:
        self._path = directory / "log.jsonl"
        lines = read_log(directory)[:num_epochs]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ExtraError("tensorboard", "track", "tensorboard=true") from None
            self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=num_epochs + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Append one epoch."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for name, value in {**line, **line.get("validation", {})}.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self._writer.add_scalar(name.replace("@", "_at_"), value, line["epoch"])
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of DIR/log.jsonl; a last line cut off by a crash is dropped."""
    path = directory / "log.jsonl"
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def peak_memory_bytes(device: torch.device) -> int:
    """Return the largest memory so far: allocated on a GPU, resident in the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
