"""`ensue plan`: what a training over many machines would cost, and how to share out its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ensue.errors import UsageError


def plan(
    data: Annotated[
        Path | None,
        typer.Argument(help="Ranking dataset (ensue prepare --target); or give --fields, --rows."),
    ] = None,
    *,
    model: Annotated[
        str,
        typer.Option(
            help="lr, fm, wide_deep, deepfm, dcn, dcn_v2, dlrm, shared_bottom, mmoe or ple.",
        ),
    ],
    preset: Annotated[str | None, typer.Option(help="Named settings of the model.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, a setting of the model, as dim=64; repeat."),
    ] = None,
    fields: Annotated[
        int | None, typer.Option(help="Columns whose values are looked up, without a dataset.")
    ] = None,
    rows: Annotated[
        list[float] | None,
        typer.Option(help="Values of all these columns, as 1e10; or repeat, one for each."),
    ] = None,
    ids_per_row: Annotated[
        float | None, typer.Option(help="Of all these columns; default: one of each.")
    ] = None,
    numbers: Annotated[int | None, typer.Option(help="Columns of numbers; default 0.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Labels of a row; default 1.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a step, over all workers.")] = 4096,
    optimizer: Annotated[
        str,
        typer.Option(
            help="Of the tables: sgd, rowwise_adagrad, adagrad, adam, lazy_adam or clippy."
        ),
    ] = "lazy_adam",
    wire: Annotated[str, typer.Option(help="What travels: float32 or bfloat16.")] = "float32",
    unique_ids: Annotated[
        int | None,
        typer.Option(help="Different ids in the batch of a worker; default: counted, or all."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    workers_per_node: Annotated[int, typer.Option(help="Processes of each, one a GPU.")] = 1,
    network_gbits: Annotated[float, typer.Option(help="Gbit/s of a node to the others.")] = 10.0,
    node_gbits: Annotated[float, typer.Option(help="Gbit/s of a worker within its node.")] = 80.0,
    latency_us: Annotated[float, typer.Option(help="Of a small collective, over all.")] = 100.0,
    memory_gb: Annotated[float, typer.Option(help="Of a worker.")] = 64.0,
    memory_gb_s: Annotated[float, typer.Option(help="GB/s of that memory.")] = 20.0,
    tflops: Annotated[float, typer.Option(help="10^12 operations/s of a worker.")] = 0.2,
    value_ns: Annotated[
        float, typer.Option(help="Nanoseconds to find a row and step it; about 50 on a CPU.")
    ] = 0.0,
    backend: Annotated[str, typer.Option(help="gloo (CPU) or nccl (GPU).")] = "gloo",
    scheme: Annotated[
        str | None,
        typer.Option(
            help="Take this one: replicated, table_wise, row_wise, des, des_scatter or "
            "des_all_reduce. Default: the cheapest."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Predict memory, bytes and time of a step for each way to train over many machines."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.config import parse_settings
    from ensue.runs.plan import plan

    described = {
        "num_fields": fields,
        "rows": rows and [_whole(one) for one in rows],
        "ids_per_row": ids_per_row,
        "num_numbers": numbers,
        "num_tasks": tasks,
    }
    found = plan(
        model,
        data,
        columns=_columns(data, {name: v for name, v in described.items() if v is not None}),
        cluster={
            "nodes": nodes,
            "workers_per_node": workers_per_node,
            "network_gbits": network_gbits,
            "node_gbits": node_gbits,
            "latency_us": latency_us,
            "memory_gb": memory_gb,
            "memory_gb_s": memory_gb_s,
            "tflops": tflops,
            "value_ns": value_ns,
            "backend": backend,
        },
        workload={
            "batch_size": batch_size,
            "optimizer": optimizer,
            "wire": wire,
            "unique_ids": unique_ids,
        },
        scheme=scheme,
        preset=preset,
        **parse_settings(assignments or []),
    )
    if as_json:
        print_json(found.to_dict())
        return
    columns, cells = found.table()
    print_table(columns, cells, title="a step of one worker")
    print_text("\n".join(found.describe()))


def _columns(data: Path | None, described: dict[str, Any]) -> dict[str, Any] | None:
    """Return the described columns; None where a dataset says all.

    Raises:
        UsageError: both are given, or what a plan needs of the columns is not.
    """
    if data is not None:
        if described:
            raise UsageError(
                "a dataset says how many columns and rows there are; drop DATA, or --fields, "
                "--rows, --ids-per-row, --numbers and --tasks."
            )
        return None
    if "num_fields" not in described or "rows" not in described:
        raise UsageError("ensue plan needs a dataset, or --fields and --rows.")
    return described


def _whole(number: float) -> int:
    """Return a number of rows, as 1e10, as a whole one.

    Raises:
        UsageError: it is none.
    """
    if not number.is_integer():  # nor are inf and nan
        raise UsageError(f"--rows takes whole numbers, as 1000000 or 1e6; got {number:g}.")
    return int(number)
