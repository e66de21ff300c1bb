"""Settings of a training over several workers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ensue.config import Config
from ensue.errors import ConfigError

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
        those of all rows, read and compute them all, and send neither ids nor dense gradients
        ("all_reduce"). "auto" is what the plan takes, and "scatter" where a scheme is named.
    wire: the type of sums and vectors on their way.
    network_gbits: what a machine sends to the others, as measured: the plan of "auto" is then the
        fastest by its model of time; None is the one that sends least.
    full_every: each so many-th checkpoint has all rows of tables that grow; those between have what
        changed since, which is little where a table is large.
    """

    layout: LayoutName = "auto"
    schedule: Literal["auto", "scatter", "all_reduce"] = "auto"
    wire: Literal["full", "bfloat16"] = "full"
    network_gbits: float | None = Field(default=None, gt=0)
    full_every: int = Field(default=10, ge=1)

    def check_read(self, scheme: str | None) -> None:
        """Refuse settings that change nothing with a scheme; None is a training of one process.

        Raises:
            ConfigError: there is one.
        """
        read = dict.fromkeys(type(self).model_fields, scheme is not None)
        if scheme is not None:
            read["layout"] = scheme != "replicated"
            read["schedule"] = scheme in ("des", "auto")
            read["wire"] = scheme != "replicated"
            read["network_gbits"] = scheme == "auto"
        for name, is_read in read.items():
            value = getattr(self, name)
            if not is_read and value != type(self).model_fields[name].default:
                where = "without --distributed" if scheme is None else f"with distributed={scheme}"
                raise ConfigError(f"{name} changes nothing {where}; got {name}={value}. Drop it.")

    @property
    def wire_type(self) -> torch.dtype | None:
        """The type of sums on their way; None is their own."""
        return _WIRES[self.wire]
