"""Equivalent substitution, TorchRec and a parameter server on a network of known speed.

    sudo python -m benchmarks.des_network [--reference PYTHON] [--nodes 2 4] [--mbit 1000 100]
        [--workloads lr-many fm-many deepfm-many deepfm-criteo] [--programs ...] [--rounds 3]

Nodes are namespaces of this machine (`benchmarks.network.cluster`; needs root, and skips with a
reason without), with one process of one thread each. The programs take turns, several rounds, each
a fresh start of all processes, three steps to warm up and --steps that count; the table has
medians. The workloads are those of `benchmarks.network.workloads`; every program reads the same
rows.

- parameter server: `benchmarks.parameter_server`;
- TorchRec table_wise and row_wise, as they are and with collectives that use gloo better ("tuned"):
  `benchmarks._network_torchrec`, run by the interpreter --reference of an environment with it (see
  `benchmarks.ranking_speed`);
- ensue des, table_wise, row_wise, replicated and plan: `benchmarks.des_step`; the last is whatever
  the plan chooses at start.

Columns: samples a second of all nodes; bytes a node sends in a step by its interface's counter, by
the program's own count, and by the formula; `wire s` is the counted bytes at the link's rate, the
least that a step can take; `cpu s`: of the processors for a step of all nodes, divided by the
machine's cores, the least it can take here however fast the network. A step near the larger of the
two is as fast as it can be on this machine; where that is `cpu s`, a cluster with processors of its
own for each node is faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._report import to_table, write_report
from benchmarks.network.cluster import Cluster, ClusterError, cluster, why_not
from benchmarks.network.formulas import sent_bytes
from benchmarks.network.meter import WARM_UP
from benchmarks.network.workloads import WORKLOADS, Workload, make_batch
from ensue.nn.row_sums import group_rows

SERVER = "parameter server"
TORCHREC = ("table_wise", "row_wise", "table_wise_tuned", "row_wise_tuned")
OWN = ("des", "table_wise", "row_wise", "replicated", "plan")
PROGRAMS = (SERVER, *(f"TorchRec {s}" for s in TORCHREC), *(f"ensue {s}" for s in OWN))
BENCHMARKED = ("lr-many", "fm-many", "deepfm-many", "deepfm-criteo")
SAVING, SPEED_UP, OFF_BEST = 0.687, 3.0, 0.1  # the bars
TIMEOUT = 900.0
Rows = list[dict[str, Any]]


def main() -> int:
    """Measure, print the tables, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="Python of an environment with TorchRec")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--mbit", type=float, nargs="+", default=[1000.0, 100.0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=BENCHMARKED)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    if reason := why_not():
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    programs = runnable(arguments.programs, arguments.reference)
    rows: Rows = []
    for nodes in arguments.nodes:
        for mbit in arguments.mbit:
            with cluster(nodes, mbit) as network:
                for name in arguments.workloads:
                    rows += compare(network, name, programs, arguments.rounds, arguments.steps)
                    print(to_table(rows), flush=True)
    claims = list(claims_of(rows))
    print(to_table(claims))
    config = {"rounds": arguments.rounds, "steps": arguments.steps, "claims": claims}
    print(write_report("des_network", config, rows))
    return 0


def runnable(programs: list[str], reference: Path | None) -> dict[str, list[str]]:
    """Return the command of each program that can be run here, and say which cannot."""
    has_own = importlib.util.find_spec("benchmarks.des_step") is not None
    commands = {}
    for name in programs:
        kind, _, scheme = name.partition(" ")
        if name == SERVER:
            commands[name] = [sys.executable, "-m", "benchmarks.parameter_server"]
        elif kind == "TorchRec" and reference:
            module = [str(reference), "-m", "benchmarks._network_torchrec"]
            sharding = ["--sharding", scheme.removesuffix("_tuned")]
            tuned = ["--tuned"] if scheme.endswith("_tuned") else []
            commands[name] = [*module, *sharding, *tuned]
        elif kind == "ensue" and has_own:
            commands[name] = [sys.executable, "-m", "benchmarks.des_step", "--scheme", scheme]
        else:
            print(f"left out: {name}", file=sys.stderr)
    return commands


def compare(
    network: Cluster, name: str, programs: dict[str, list[str]], rounds: int, steps: int
) -> Rows:
    """Return a row for each program on a workload; the programs take turns."""
    answers: dict[str, list[dict[str, Any]]] = {program: [] for program in programs}
    for _ in range(rounds):
        for program, command in programs.items():
            where = f"{network.nodes} nodes, {network.mbit} Mbit/s, {name}, {program}"
            try:
                answer = run(network, [*command, "--workload", name, "--steps", str(steps)])
            except ClusterError as error:
                print(f"{where}: {error}", file=sys.stderr, flush=True)
                continue
            print(f"{where}: {answer}", file=sys.stderr, flush=True)
            answers[program].append(answer)
    known = sizes_of(WORKLOADS[name], network.nodes)
    rows = []
    for program, own in answers.items():
        if own:
            rows.append(summarize(network, name, program, own, known))
    base = next((row["samples/s"] for row in rows if row["program"] == SERVER), None)
    for row in rows:
        row["over server"] = row["samples/s"] / base if base else None
    return rows


def run(network: Cluster, command: list[str]) -> dict[str, Any]:
    """Run a program on all nodes, and return what it said, put together.

    Each process prints a line of JSON last; `samples_per_s` and `sent_bytes` are needed, the rest
    is as in `benchmarks.network.meter.measure`.
    """
    environment = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    outputs = network.run([command] * network.nodes, env=environment, timeout=TIMEOUT)
    answers = [json.loads(output.stdout.splitlines()[-1]) for output in outputs if output.stdout]
    if not answers:
        raise ClusterError("no node printed a line of JSON")
    first: dict[str, Any] = answers[0]

    def mean(key: str) -> float | None:
        values = [_total(answer.get(key)) for answer in answers]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    cpu = mean("cpu_s")
    return {
        "samples_per_s": min(answer["samples_per_s"] for answer in answers),
        "cpu_s": None if cpu is None else cpu * network.nodes,
        **{key: mean(key) for key in ("interface_bytes", "sent_bytes", "communication_s")},
        "parts": first.get("sent_bytes"),
        "planned": first.get("planned"),
    }


def _total(value: Any) -> float | None:
    if isinstance(value, dict):
        return float(sum(value.values()))
    return None if value is None else float(value)


def summarize(
    network: Cluster,
    name: str,
    program: str,
    answers: list[dict[str, Any]],
    known: dict[str, float],
) -> dict[str, Any]:
    """Return the row of a program; `known` has the entries and distinct values of a batch."""
    workload = WORKLOADS[name]

    def median(key: str) -> float | None:
        values = [answer[key] for answer in answers if answer.get(key) is not None]
        return statistics.median(values) if values else None

    speed, counted, cpu = median("samples_per_s"), median("interface_bytes"), median("cpu_s")
    assert speed is not None
    sent = counted if counted is not None else median("sent_bytes")
    rate = network.mbit
    return {
        "nodes": network.nodes,
        "Mbit/s": rate,
        "workload": name,
        "program": program,
        "samples/s": speed,
        "over server": None,
        "step s": workload.batch * network.nodes / speed,
        "wire s": None if sent is None or rate is None else sent * 8e-6 / rate,
        "cpu s": None if cpu is None else cpu / len(os.sched_getaffinity(0)),
        "communication s": median("communication_s"),
        "MB, counter": _mega(counted),
        "MB, program": _mega(median("sent_bytes")),
        "MB, formula": _mega(formula(program, workload, network.nodes, known)),
        "planned": answers[-1]["planned"],
    }


def sizes_of(workload: Workload, nodes: int) -> dict[str, float]:
    """Return the mean entries and distinct values of a worker's batch, over two steps."""
    steps = range(WARM_UP, WARM_UP + 2)
    batches = [make_batch(workload, rank, step).ids for rank in range(nodes) for step in steps]
    return {
        "entries": statistics.fmean(len(ids) for ids in batches),
        "distinct": statistics.fmean(len(group_rows(ids)[0]) for ids in batches),
    }


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def formula(program: str, workload: Workload, nodes: int, known: dict[str, float]) -> float | None:
    """Return the bytes that a node should send in a step; None where there is no formula."""
    kind, _, scheme = program.partition(" ")
    scheme = "parameter_server" if program == SERVER else scheme.removesuffix("_tuned")
    if scheme not in ("parameter_server", "table_wise", "row_wise", "des"):
        return None
    width = max(4, workload.dim) if kind == "TorchRec" else workload.width
    parts = sent_bytes(
        scheme,  # type: ignore[arg-type]
        workload,
        nodes,
        width=width,
        **known,
    )
    return sum(parts.values())


def claims_of(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yield what the bars are about, for each network and workload that has the rows for it."""
    cases = dict.fromkeys((row["nodes"], row["Mbit/s"], row["workload"]) for row in rows)
    for nodes, mbit, workload in cases:
        own = {
            row["program"]: row
            for row in rows
            if (row["nodes"], row["Mbit/s"], row["workload"]) == (nodes, mbit, workload)
        }
        where = f"{workload}, {nodes} nodes, {mbit:g} Mbit/s"
        server, des = own.get(SERVER), own.get("ensue des")
        if server and des:
            many = workload in ("lr-many", "fm-many", "deepfm-many")
            saved = 1 - _bytes(des) / _bytes(server)
            bar = SAVING if many else ""
            yield {"case": where, "claim": "bytes DES saves", "value": saved, "bar": bar}
            ratio = des["samples/s"] / server["samples/s"]
            bar = SPEED_UP if many and mbit == 100 else ""
            yield {"case": where, "claim": "DES over server", "value": ratio, "bar": bar}
        speeds = {name: row["samples/s"] for name, row in own.items() if name.startswith("ensue ")}
        planned = speeds.pop("ensue plan", None)
        if planned and speeds:
            best = max(speeds, key=lambda name: speeds[name])
            claim = f"plan over best ({best})"
            value = planned / speeds[best]
            yield {"case": where, "claim": claim, "value": value, "bar": 1 - OFF_BEST}


def _bytes(row: dict[str, Any]) -> float:
    value = row["MB, counter"] if row["MB, counter"] is not None else row["MB, program"]
    return float(value)


if __name__ == "__main__":
    sys.exit(main())
