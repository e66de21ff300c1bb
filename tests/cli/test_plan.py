from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.errors import ConfigError, DataError, UsageError

CRITEO = ["--model", "deepfm", "--fields", "26", "--rows", "3e7", "--numbers", "13"]


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_command_and_the_function_agree() -> None:
    printed = call(
        *CRITEO, "--tasks", "2", "--ids-per-row", "30", "--set", "dim=8", "--set", "hidden=[64]",
        "--nodes", "4", "--workers-per-node", "2", "--network-gbits", "1", "--node-gbits", "20",
        "--latency-us", "50", "--memory-gb", "32", "--memory-gb-s", "15", "--tflops", "0.5",
        "--backend", "nccl", "--batch-size", "8192", "--optimizer", "adagrad", "--wire",
        "bfloat16", "--unique-ids", "5000", "--scheme", "row_wise", "--json",
    )  # fmt: skip
    found = ensue.plan(
        "deepfm",
        columns={
            "num_fields": 26,
            "rows": [30_000_000],
            "num_numbers": 13,
            "num_tasks": 2,
            "ids_per_row": 30.0,
        },
        cluster={
            "nodes": 4,
            "workers_per_node": 2,
            "network_gbits": 1.0,
            "node_gbits": 20.0,
            "latency_us": 50.0,
            "memory_gb": 32.0,
            "memory_gb_s": 15.0,
            "tflops": 0.5,
            "backend": "nccl",
        },
        workload={
            "batch_size": 8192,
            "optimizer": "adagrad",
            "wire": "bfloat16",
            "unique_ids": 5000,
        },
        scheme="row_wise",
        dim=8,
        hidden=[64],
    )
    assert json.loads(printed) == found.to_dict()
    assert found.chosen.name == "row_wise"


def test_a_table_for_people() -> None:
    lines = [" ".join(line.split()) for line in call(*CRITEO, "--nodes", "8").splitlines()]
    found = ensue.plan(
        "deepfm",
        columns={"num_fields": 26, "rows": [30_000_000], "num_numbers": 13},
        cluster={"nodes": 8},
    )
    (chosen,) = (line for line in lines if line.startswith("->"))
    cost = found.chosen.cost
    assert cost
    assert chosen.startswith(f"-> {found.chosen.name} field {cost.num_bytes / 1e6:.4f} ")
    assert lines[-3:] == [" ".join(line.split()) for line in found.describe()]
    printed = call("--model", "dcn_v2", "--fields", "26", "--rows", "3e7", "--nodes", "8")
    assert "crosses of full rank read all vectors; set cross_rank" in printed


def test_without_settings_those_of_the_documentation_hold() -> None:
    printed = json.loads(call("--model", "lr", "--fields", "4", "--rows", "100", "--json"))
    plain = ensue.plan("lr", columns={"num_fields": 4, "rows": [100]})
    assert printed == plain.to_dict()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--model", "fm"], UsageError, "needs a dataset, or --fields and --rows"),
        (["--model", "fm", "--fields", "2"], UsageError, "needs a dataset, or --fields and"),
        (["nothing", "--model", "fm"], DataError, "folder with a dataset.json; nothing has none"),
        (["nothing", *CRITEO], UsageError, "a dataset says how many columns and rows there are"),
        (["--model", "fm", "--fields", "2", "--rows", "1.5"], UsageError, "whole numbers.*got 1.5"),
        (["--model", "fm", "--fields", "2", "--rows", "inf"], UsageError, "whole numbers.*got inf"),
        ([*CRITEO, "--scheme", "rowwise"], UsageError, "no scheme 'rowwise'. Did you mean 'row_w"),
        ([*CRITEO, "--wire", "int8"], ConfigError, "Workload.wire: .*got 'int8'"),
        ([*CRITEO, "--nodes", "-1"], ConfigError, "Cluster.nodes: .*got -1"),
        ([*CRITEO, "--set", "width=3"], ConfigError, "deepfm has no setting 'width'"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message) as found:
        CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert "\n" not in str(found.value)
