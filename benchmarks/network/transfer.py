"""Whether the network has the speed it should: bare transfers over TCP, in both directions at once.

    python -m benchmarks.network.transfer [--nodes 2 4] [--mbit 100 1000] [--seconds 4]

Every node sends to the next and receives from the one before it. The rate of a link is that of the
payload times 1514 / 1448. It must be within 5% of what was asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from benchmarks._report import to_table
from benchmarks.network.cluster import SUBNET, cluster, why_not

PORT = 29_400
CHUNK = bytes(1 << 18)
FRAME, PAYLOAD = 1514, 1448
TOLERANCE = 0.05


def main() -> int:
    """Print the rates; exit with 1 where one is too far off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--mbit", type=float, nargs="+", default=[100.0, 1000.0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        print(json.dumps(transfer(arguments.send)))
        return 0
    if reason := why_not():
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    rows = [
        row
        for nodes in arguments.nodes
        for mbit in arguments.mbit
        for row in measure(nodes, mbit, arguments.seconds)
    ]
    print(to_table(rows))
    return int(any(abs(row["rate / asked"] - 1) > TOLERANCE for row in rows))


def measure(nodes: int, mbit: float, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each node's link."""
    size = int(mbit * 1e6 / 8 * seconds)
    command = [sys.executable, "-m", "benchmarks.network.transfer", "--send", str(size)]
    with cluster(nodes, mbit) as network:
        outputs = network.run([command] * nodes, timeout=60 + 10 * seconds)
        counted = network.sent_bytes()
    rates = [json.loads(output.stdout)["bytes_per_s"] for output in outputs]
    return [
        {
            "nodes": nodes,
            "Mbit/s asked": mbit,
            "node": rank,
            "payload, Mbit/s": 8e-6 * rates[rank],
            "rate / asked": 8e-6 * rates[rank] * FRAME / PAYLOAD / mbit,
            "counted / payload bytes": counted[rank] / size,
        }
        for rank in range(nodes)
    ]


def transfer(size: int) -> dict[str, float]:
    """Send `size` bytes to the next node, and return how fast as many came from the last."""
    rank, nodes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with socket.create_server(("", PORT)) as server:
        other = _connect(f"{SUBNET}.{(rank + 1) % nodes + 1}")
        own, _ = server.accept()
        with own, other:
            other.sendall(b"1")  # all are connected once the one before says so
            own.recv(1)
            sender = threading.Thread(target=_send, args=(other, size))
            start = time.perf_counter()
            sender.start()
            left = size
            while left:
                left -= len(own.recv(min(left, len(CHUNK))))
            seconds = time.perf_counter() - start
            sender.join()
            other.shutdown(socket.SHUT_WR)
            own.recv(1)
    return {"bytes_per_s": size / seconds}


def _connect(address: str) -> socket.socket:
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection((address, PORT))
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _send(to: socket.socket, size: int) -> None:
    for first in range(0, size, len(CHUNK)):
        to.sendall(CHUNK[: min(len(CHUNK), size - first)])


if __name__ == "__main__":
    sys.exit(main())
