"""Settings of a training over several workers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ensue.config import Config

LayoutName = Literal["auto", "field", "hash", "column"]
_WIRES = {"full": None, "bfloat16": torch.bfloat16}


class WorkersConfig(Config):
    """What every training over several workers has to know.

    timeout_seconds: after which a worker that waits for another one gives up.
    """

    timeout_seconds: float = Field(default=300.0, gt=0)


class DistributedConfig(WorkersConfig):
    """How a model is divided among workers.

    layout: whole vocabularies are with a worker each, as loads allow ("field"); rows are divided by
        a hash of their value ("hash"); or vectors by their elements ("column"). "auto" is what the
        scheme and the model need.
    schedule: of the scheme "des": each worker gets sums of its own rows ("scatter"), or all have
        those of all rows, compute them all, and send no dense gradient ("all_reduce").
    wire: the type of the sums of "des" on their way.
    """

    layout: LayoutName = "auto"
    schedule: Literal["scatter", "all_reduce"] = "scatter"
    wire: Literal["full", "bfloat16"] = "full"

    @property
    def wire_type(self) -> torch.dtype | None:
        """The type of sums on their way; None is their own."""
        return _WIRES[self.wire]
