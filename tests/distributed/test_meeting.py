"""Workers that are started again find each other, and not those that are gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import Store

from ensue.distributed.meeting import meet


def meet_all(store: Store, ranks: list[int], *, seconds: float, address: str) -> list[str]:
    """Return what each of three workers reads of the address that the first one writes."""

    def come(rank: int) -> str:
        own = meet(store, rank, 3, timeout_seconds=seconds)
        if rank == 0:
            own.set("address", address)
        return own.get("address").decode()

    with ThreadPoolExecutor(3) as threads:
        return list(threads.map(come, ranks))


def test_each_start_has_a_place_of_its_own() -> None:
    store = HashStore()
    assert meet_all(store, [0, 1, 2], seconds=30.0, address="first") == ["first"] * 3
    with pytest.raises(RuntimeError, match="not all workers"):
        # The third one's number of the first start is still there.
        meet_all(store, [0, 1], seconds=0.2, address="second")
    assert meet_all(store, [2, 1, 0], seconds=30.0, address="third") == ["third"] * 3
