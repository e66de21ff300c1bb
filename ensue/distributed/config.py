"""Settings of a training over several workers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ensue.config import Config

LayoutName = Literal["auto", "field", "hash", "column"]
_WIRES = {"full": None, "bfloat16": torch.bfloat16}


class DistributedConfig(Config):
    """How a model is divided among workers.

    layout: whole vocabularies are with a worker each, as loads allow ("field"); rows are divided by
        a hash of their value ("hash"); or vectors by their elements ("column"). "auto" is what the
        scheme and the model need.
    schedule: of the scheme "des": each worker gets sums of its own rows ("scatter"), or all have
        those of all rows, compute them all, and send no dense gradient ("all_reduce").
    wire: the type of the sums of "des" on their way.
    timeout_seconds: after which a worker that waits for another one gives up.
    full_every: each so many-th checkpoint has all rows of tables that grow; those between have what
        changed since, which is little where a table is large.
    """

    layout: LayoutName = "auto"
    schedule: Literal["scatter", "all_reduce"] = "scatter"
    wire: Literal["full", "bfloat16"] = "full"
    timeout_seconds: float = Field(default=300.0, gt=0)
    full_every: int = Field(default=10, ge=1)

    @property
    def wire_type(self) -> torch.dtype | None:
        """The type of sums on their way; None is their own."""
        return _WIRES[self.wire]
