"""What a run says of the programs and the machine that made it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch


def versions() -> dict[str, str]:
    """Return the versions of Ensue, Python and PyTorch."""
    return {
        "ensue": version("ensue"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def hardware() -> dict[str, Any]:
    """Return the system, its cores, the threads that PyTorch uses, and the GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
