"""What torchrun says of a process: its place among the workers, and its device."""

from __future__ import annotations

import os

import torch

from ensue.errors import ConfigError, UsageError


def read_environment() -> tuple[int, int, int]:
    """Return WORLD_SIZE, RANK and LOCAL_RANK.

    Raises:
        UsageError: they are not what torchrun sets.
    """
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    texts = [os.environ.get(name, "") for name in names]
    if not all(text.isdecimal() for text in texts) or not int(texts[1]) < int(texts[0]):
        found = ", ".join(f"{name}={text!r}" for name, text in zip(names, texts, strict=True))
        raise UsageError(
            "workers need WORLD_SIZE, RANK (0 to WORLD_SIZE - 1) and LOCAL_RANK in the "
            f"environment, as torchrun sets them; got {found}; start with torchrun"
        )
    size, rank, local_rank = map(int, texts)
    return size, rank, local_rank


def pick_device(name: str, local_rank: int) -> torch.device:
    """Return the device of a worker: "cpu", "cuda" (the GPU of its local rank) or "auto".

    Raises:
        ConfigError: there is no such device, or none for each worker of the machine.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device of a worker must be 'auto', 'cpu' or 'cuda'; got {name!r}")
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and num_devices == 0):
        return torch.device("cpu")
    if local_rank >= num_devices:
        raise ConfigError(
            f"device={name!r} needs a GPU for each worker of a machine; got local rank "
            f"{local_rank} and {num_devices} GPUs; start fewer workers or use device='cpu'"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
