"""What a run says of the programs and the machine that made it."""

from __future__ import annotations

import os
import platform
import time
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import torch


def describe_making(started: float) -> dict[str, Any]:
    """Return when, how long, by which programs and on what a run was made.

    Args:
        started: what time.perf_counter said when it began.
    """
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - started,
        "versions": versions(),
        "hardware": _hardware(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Ensue, Python and PyTorch."""
    return {
        "ensue": version("ensue"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _hardware() -> dict[str, Any]:
    """Return the system, its cores, the threads that PyTorch uses, and the GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
