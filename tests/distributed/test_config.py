"""Settings of several workers are read, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from ensue.distributed.config import DistributedConfig
from ensue.errors import ConfigError


@pytest.mark.parametrize(
    ("scheme", "settings", "message"),
    [
        (None, {"layout": "hash"}, "layout changes nothing without --distributed; got layout=hash"),
        (None, {"timeout_seconds": 5.0}, "timeout_seconds changes nothing without"),
        ("table_wise", {"schedule": "scatter"}, "schedule changes nothing with distributed=table"),
        ("replicated", {"wire": "bfloat16"}, "wire changes nothing with distributed=replicated"),
        ("replicated", {"layout": "hash"}, "layout changes nothing with distributed=replicated"),
        ("des", {"network_gbits": 1.0}, "network_gbits changes nothing with distributed=des"),
    ],
)
def test_what_changes_nothing_is_refused(
    scheme: str | None, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DistributedConfig(**settings).check_read(scheme)


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [
        (None, {}),
        ("des", {"schedule": "all_reduce", "layout": "hash", "wire": "bfloat16"}),
        ("row_wise", {"layout": "field", "wire": "bfloat16", "full_every": 3}),
        ("auto", {"network_gbits": 1.0, "timeout_seconds": 5.0}),
    ],
)
def test_what_is_read_is_taken(scheme: str | None, settings: dict[str, Any]) -> None:
    DistributedConfig(**settings).check_read(scheme)
