"""Nodes with a network of a given speed between them: namespaces of one machine, as root.

Each node is a network namespace with an interface `eth0`, 10.77.0.1 and up, joined by a veth pair
to a bridge in a namespace of its own, the switch. Token buckets (`tc` tbf) shape what a node sends
at its interface, and what it receives at its port of the switch, so that both directions have the
given rate, at the same time, and two senders to one node share its port. A bucket holds
a millisecond of bytes (68 KiB at least, the largest piece that the kernel sends), its queue 50 ms;
beyond that packets are dropped, and TCP (Reno, which every kernel has) slows down. There is no
delay but that of the queues: an idle network's round trip is below 0.1 ms, as within a rack.

The frames are Ethernet's of 1,514 bytes (MTU 1,500), of which TCP with time stamps carries 1,448:
a transfer's rate is at most 0.956 of the link's. The buckets count every frame. The counters of the
interfaces count a burst that the kernel sends in one piece (up to 64 KiB) with one header, and the
acknowledgments of what the node received; they are 0.1% to 2% above the bytes of the program.

All nodes share the machine's processors: a program that computes most of the time is as slow here
as its processors, whatever the network.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

PREFIX = "ensue-net"
INTERFACE = "eth0"
SUBNET = "10.77.0"
FIRST_PORT = 29_500
QUEUE = "50ms"
LEAST_BURST = 68 * 1024  # bytes: the largest piece that the kernel sends at once
CONGESTION = "reno"  # there in every kernel
GRACE = 10.0  # seconds that the others have after a process failed
POLL = 0.05


class ClusterError(RuntimeError):
    """The network cannot be made, or a program on it failed."""


class Output(NamedTuple):
    """What a process of a node wrote."""

    stdout: str
    stderr: str


@dataclass
class Cluster:
    """Nodes that are up."""

    nodes: int
    mbit: float | None
    name: str
    _runs: int = field(default=0, init=False)

    def run(
        self,
        commands: Sequence[Sequence[str]],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> list[Output]:
        """Start a process in each node, wait for all, and return what they wrote.

        Args:
            commands: the program and its arguments, for each node.
            env: beside this process's own variables and those that torchrun sets.
            timeout: seconds for all of them.

        Raises:
            ClusterError: a process failed, or the time is over; none is left running.
        """
        if len(commands) != self.nodes:
            raise ClusterError(f"run needs {self.nodes} commands, one a node; got {len(commands)}.")
        self._runs += 1
        with ExitStack() as stack:
            files = [
                [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
                for _ in commands
            ]
            processes = [
                subprocess.Popen(
                    ["ip", "netns", "exec", f"{self.name}-{rank}", *command],
                    stdout=files[rank][0],
                    stderr=files[rank][1],
                    env={**os.environ, **self.environment(rank), **(env or {})},
                    start_new_session=True,
                )
                for rank, command in enumerate(commands)
            ]
            try:
                _wait(processes, timeout)
            finally:
                for process in processes:
                    _kill(process)
            outputs = [Output(_read(out), _read(err)) for out, err in files]
        _check(processes, outputs, timeout)
        return outputs

    def environment(self, rank: int) -> dict[str, str]:
        """Return the variables that torchrun would set on a node, and gloo's interface."""
        return {
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.nodes),
            "LOCAL_WORLD_SIZE": "1",
            "GROUP_RANK": str(rank),
            "MASTER_ADDR": f"{SUBNET}.1",
            "MASTER_PORT": str(FIRST_PORT + self._runs),
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "TP_SOCKET_IFNAME": INTERFACE,
        }

    def sent_bytes(self) -> list[int]:
        """Return the bytes that the interface of each node sent since it is up."""
        return [_sent_bytes(f"{self.name}-{rank}") for rank in range(self.nodes)]


def why_not() -> str | None:
    """Return why there can be no namespaces here, None if they can be made."""
    missing = [tool for tool in ("ip", "tc") if not shutil.which(tool)]
    if missing:
        return f"network namespaces need {' and '.join(missing)} (package iproute2), not found here"
    if os.geteuid() != 0:
        return "network namespaces need root; run the benchmark with sudo"
    name = f"{PREFIX}-{os.getpid()}-probe"
    try:
        _call("ip", "netns", "add", name)
        _call("ip", "netns", "delete", name)
    except ClusterError as error:
        return f"network namespaces cannot be made here: {error}"
    return None


@contextmanager
def cluster(nodes: int, mbit: float | None) -> Iterator[Cluster]:
    """Make nodes joined by links of `mbit` million bits a second, and remove them at the end.

    A SIGTERM meanwhile ends this process by `SystemExit`, so that they are removed then too; called
    from the main thread.

    Args:
        nodes: 1 to 250.
        mbit: of each direction of each node's link; None is as fast as the machine.

    Raises:
        ClusterError: they cannot be made; `why_not` tells beforehand.
    """
    _remove_left_behind()
    made = Cluster(nodes, mbit, f"{PREFIX}-{os.getpid()}")
    switch = f"{made.name}-switch"
    names = [switch, *(f"{made.name}-{rank}" for rank in range(nodes))]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        for name in names:
            _call("ip", "netns", "add", name)
        _call("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _call("ip", "-n", switch, "link", "set", "bridge", "up")
        for rank, node in enumerate(names[1:]):
            _set(node, "tcp_congestion_control", CONGESTION)
            _connect(node, switch, rank)
            if mbit is not None:
                _shape(node, INTERFACE, mbit)
                _shape(switch, f"port{rank}", mbit)
        yield made
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        signal.signal(signal.SIGTERM, before)


def _connect(node: str, switch: str, rank: int) -> None:
    port = f"port{rank}"
    pair = ["link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", node]
    _call("ip", "-n", switch, *pair)
    _call("ip", "-n", switch, "link", "set", port, "master", "bridge")
    _call("ip", "-n", switch, "link", "set", port, "up")
    _call("ip", "-n", node, "link", "set", INTERFACE, "addrgenmode", "none")  # no IPv6 chatter
    _call("ip", "-n", node, "address", "add", f"{SUBNET}.{rank + 1}/24", "dev", INTERFACE)
    for name in ("lo", INTERFACE):
        _call("ip", "-n", node, "link", "set", name, "up")


def _shape(namespace: str, interface: str, mbit: float) -> None:
    burst = max(LEAST_BURST, round(mbit * 1e6 / 8 / 1000))
    bucket = ["tbf", "rate", f"{mbit:g}mbit", "burst", str(burst), "latency", QUEUE]
    _call("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", *bucket)


def _set(namespace: str, name: str, value: str) -> None:
    command = f"echo {value} > /proc/sys/net/ipv4/{name}"
    _call("ip", "netns", "exec", namespace, "sh", "-c", command)


def _sent_bytes(node: str) -> int:
    text = _call("ip", "-n", node, "-j", "-s", "link", "show", "dev", INTERFACE)
    return int(json.loads(text)[0]["stats64"]["tx"]["bytes"])


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def _remove_left_behind() -> None:
    """Remove the namespaces of processes that were killed before they could."""
    for line in _call("ip", "netns", "list").splitlines():
        name = line.split(" ")[0]
        owner = name.removeprefix(f"{PREFIX}-").split("-")[0]
        if name.startswith(f"{PREFIX}-") and not Path(f"/proc/{owner}").exists():
            _call("ip", "netns", "delete", name)


def _wait(processes: list[subprocess.Popen[bytes]], timeout: float) -> None:
    """Return when all have ended, when one failed and the others had their time, or at the end."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return
        if any(codes):
            end = min(end, time.monotonic() + GRACE)
        time.sleep(POLL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _check(processes: list[subprocess.Popen[bytes]], outputs: list[Output], timeout: float) -> None:
    """Raise an error about the processes that failed by themselves, or about the time."""
    codes = [process.returncode for process in processes]
    failed = [rank for rank, code in enumerate(codes) if code not in (0, -signal.SIGKILL)]
    if failed:  # which was the first is not known
        raise ClusterError(
            "; ".join(
                f"node {rank} ended with exit code {codes[rank]}: {outputs[rank].stderr[-2000:]}"
                for rank in failed
            )
        )
    if any(codes):
        raise ClusterError(
            f"all nodes must end within {timeout:g} s; "
            f"{codes.count(-signal.SIGKILL)} of {len(codes)} did not and were killed."
        )
