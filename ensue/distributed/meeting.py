"""How workers find each other where torchrun starts them again: among the traces of those before.

torchrun keeps one store for all starts, and the addresses of workers that are gone stay in it. A
worker that reads one of them waits for nobody. So the workers of a start first agree on a name that
none before can have had, and keep what is theirs under it. (A count of starts would not do: the
agents of several machines count differently.)
"""

from __future__ import annotations

import json
import secrets
import time

from torch.distributed.distributed_c10d import PrefixStore, Store

POLL_SECONDS = 0.02
ROSTER = "ensue/roster"


def meet(store: Store, rank: int, size: int, timeout_seconds: float) -> Store:
    """Return the part of a store that the workers of this start have for themselves.

    Each of them tells a number of its own. The first one writes a roster of them, which holds as
    soon as all have found their own number in it.

    Raises:
        RuntimeError: not all of them came within the timeout.
    """
    own, deadline = secrets.token_hex(8), time.monotonic() + timeout_seconds
    store.set(_number(rank), own)
    roster: list[str] = []
    while time.monotonic() < deadline:
        if rank == 0 and (found := _numbers(store, size)) != roster:
            roster = found
            store.set(ROSTER, json.dumps(roster))
        elif rank > 0 and store.check([ROSTER]):
            roster = json.loads(store.get(ROSTER))
        if len(roster) == size and roster[rank] == own:
            name = f"ensue/{'-'.join(roster)}"
            store.set(f"{name}/{rank}", "here")
            if store.check([f"{name}/{other}" for other in range(size)]):
                return PrefixStore(name, store)
        time.sleep(POLL_SECONDS)
    raise RuntimeError("not all workers have come")


def _number(rank: int) -> str:
    return f"ensue/number/{rank}"


def _numbers(store: Store, size: int) -> list[str]:
    """Return the numbers that are there, of this start or of one before; none until all are."""
    keys = [_number(rank) for rank in range(size)]
    return [store.get(key).decode() for key in keys] if store.check(keys) else []
