"""A run as a folder that other programs read: a graph or arrays, ids, and what there is to know.

```
export.json     format, inputs and outputs, hash of the weights, difference to the run, versions,
                hash and size of the other files; written last
model.onnx      or model.pt2 (torch-export), or weights.npz (npz)
items.json      raw ids: entry n is item n; entry 0, padding, is null
users.json      likewise, where the model reads users
context.json    values of each categorical context column, entry n of code n, where it reads any
encoder.json    of a ranking run, in place of ids: vocabularies, means, deviations
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from ensue.data.ids import IdMap
from ensue.errors import UsageError, did_you_mean
from ensue.files import atomic_directory, write_json
from ensue.indexes.store import hash_file
from ensue.nn.growing_items import GrowingItems
from ensue.runs.environment import versions

if TYPE_CHECKING:
    from ensue.models.ranking.base import RankingModel
    from ensue.runs.export.formats import Compute
    from ensue.runs.export.graphs import ScoreGraph, Signature
    from ensue.runs.export.rows import RowGraph
    from ensue.runs.ranker import RankingRun
    from ensue.runs.run import Run

ExportFormat = Literal["onnx", "torch-export", "npz"]

LAYOUT = 1  # of the folder
MARKER = "export.json"
ARRAYS = "weights.npz"
ENCODER = "encoder.json"
EXAMPLE_ROWS = 9
CHECKED_ROWS = (1, 2, 9, 64)


@dataclass(frozen=True)
class Export:
    """A run in other programs' terms, at `path`.

    info: what export.json says.
    """

    path: Path
    info: dict[str, Any]

    @property
    def file(self) -> Path:
        """The graph, or the arrays."""
        return self.path / str(self.info["file"])


def export_run(
    run: Run,
    form: str,
    *,
    out: str | Path | None = None,
    k: int | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a run in another format, check that it gives the run's scores, and return it.

    Args:
        form: "onnx" or "torch-export", a graph from histories to scores; "npz", all weights.
        out: a new folder; None is RUN/exports/FORMAT.
        k: let the graph answer with its k best items, those of the history left out.
        overwrite: replace the export that is there.

    Raises:
        UsageError: there is no such format, the model has no such graph, k does not fit, or the
            folder may not be written.
        RunError: the scores differ by more than 1e-4.
        ExtraError: the format needs a package that is not installed.
    """
    check_format(form)
    path = run.path / "exports" / form if out is None else Path(out)
    with atomic_directory(path, marker=MARKER, overwrite=overwrite) as folder:
        if form == "npz":
            if k is not None:
                raise UsageError("k is for graphs (onnx, torch-export); npz holds weights alone.")
            found = write_arrays(folder, run.model)
        else:
            found = _export_model(folder, run, form, k)
        _write_ids(folder / "items.json", run.recommender.item_ids)
        given = {own["name"] for own in found.get("inputs") or found["arrays"]}
        if given & {"users", "user_embedding"} or run.model.features.users:
            _write_ids(folder / "users.json", run.recommender.user_ids)
        if not run.model.context.is_empty:
            write_json(
                folder / "context.json",
                {name: _listed(ids) for name, ids in run.context_values.items()},
            )
        facts = {
            "num_users": run.model.num_users,
            "num_items": run.model.num_items,
            "max_len": run.model.max_len,
            "k": k,
            "context": run.model.context.to_dict(),
        }
        return _finish(folder, path, run, {**found, **facts})


def export_ranker(
    run: RankingRun, form: str, *, out: str | Path | None = None, overwrite: bool = False
) -> Export:
    """Write a ranking run in another format, check that it predicts the same, and return it.

    Args:
        form: "onnx" or "torch-export", a graph from encoded columns to predictions; "npz", all
            weights.
        out: a new folder; None is RUN/exports/FORMAT.
        overwrite: replace the export that is there.

    Raises:
        UsageError: there is no such format, the tables of the model grow and the format is a graph,
            or the folder may not be written.
        RunError: the predictions differ by more than 1e-4.
        ExtraError: the format needs a package that is not installed.
    """
    check_format(form)
    path = run.path / "exports" / form if out is None else Path(out)
    with atomic_directory(path, marker=MARKER, overwrite=overwrite) as folder:
        if form == "npz":
            found = write_arrays(folder, run.model)
        else:
            found = _export_rows(folder, run.model, form)
        run.encoder.save(folder / ENCODER)
        return _finish(folder, path, run, found)


def check_format(form: str) -> None:
    """Check that there is a format of this name.

    Raises:
        UsageError: there is none.
    """
    known = get_args(ExportFormat)
    if form not in known:
        raise UsageError(f"there is no export format {form!r}.{did_you_mean(form, known)}")


def write_arrays(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Write all tensors of a model's state as named arrays, and return what export.json says.

    A table of items that grows is written as it stands now, with a row for each item.
    """
    state: dict[str, Tensor] = model.state_dict()
    for name, table in model.named_modules():
        if isinstance(table, GrowingItems):
            own = [key for key in state if key.startswith(f"{name}.")]
            state = {key: value for key, value in state.items() if key not in own}
            state[name] = table.whole()
    arrays: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
    np.savez(folder / ARRAYS, **arrays)
    described = [
        {"name": name, "dtype": str(values.dtype), "shape": list(values.shape)}
        for name, values in arrays.items()
    ]
    numpy = {"numpy": np.__version__}
    return {"format": "npz", "file": ARRAYS, "arrays": described, "versions": numpy}


def _export_model(folder: Path, run: Run, form: str, k: int | None) -> dict[str, Any]:
    """Write the graph of a run over histories, and return what export.json says of it."""
    from ensue.runs.export.graphs import make_graph
    from ensue.runs.export.parity import check_scores, padded_inputs, sample_histories

    graph = make_graph(run.model, name=str(run.info["model"]), k=k)
    batch = sample_histories(run.model, run.recommender.histories)
    names = [given.name for given in graph.inputs]

    def verify(compute: Compute) -> dict[str, Any]:
        return {
            "max_abs_difference": check_scores(compute, run.model, batch, names, k),
            "histories": len(batch),
            "lengths": sorted(set(batch.offsets.diff().tolist())),
        }

    return _write_graph(folder, form, graph, padded_inputs(batch, names), verify)


def _export_rows(folder: Path, model: RankingModel, form: str) -> dict[str, Any]:
    """Write the graph of a model of rows, and return what export.json says of it."""
    from ensue.runs.export.rows import RowGraph, check_rows, row_inputs_of, sample_rows

    graph = RowGraph(model)
    example = row_inputs_of(sample_rows(model.schema, EXAMPLE_ROWS), graph.inputs)

    def verify(compute: Compute) -> dict[str, Any]:
        differences = [check_rows(compute, graph, number) for number in CHECKED_ROWS]
        return {"max_abs_difference": max(differences), "rows": list(CHECKED_ROWS)}

    return _write_graph(folder, form, graph, example, verify)


def _write_graph(
    folder: Path,
    form: str,
    graph: ScoreGraph | RowGraph,
    example: Mapping[str, Tensor],
    verify: Callable[[Compute], dict[str, Any]],
) -> dict[str, Any]:
    """Write a graph, check the file, and return what export.json says of it.

    Args:
        example: of the inputs. verify: returns what the file's results differ by.
    """
    from ensue.runs.export.formats import GRAPH_FILES, require_onnx, trace

    if form == "onnx":
        require_onnx()
    kind = GRAPH_FILES[form]
    program = trace(graph, graph.inputs, example)
    names = [given.name for given in graph.inputs]
    kind.write(program, folder / kind.name, names, [given.name for given in graph.outputs])
    return {
        "format": form,
        "file": kind.name,
        "inputs": [_described(given) for given in graph.inputs],
        "outputs": [_described(given) for given in graph.outputs],
        "parity": verify(kind.read(folder / kind.name)),
        "versions": kind.versions(),
    }


def _described(given: Signature) -> dict[str, Any]:
    return {"name": given.name, "dtype": given.dtype, "shape": list(given.shape)}


def _write_ids(path: Path, ids: IdMap) -> None:
    write_json(path, _listed(ids))


def _listed(ids: IdMap) -> list[str | None]:
    """Return raw ids by dense id; nothing has id 0."""
    return [None, *ids.raw.to_list()]


def _finish(folder: Path, path: Path, run: Run | RankingRun, found: Mapping[str, Any]) -> Export:
    """Write export.json, and return what stands at `path` once the folder is there."""
    info = run.info
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": hash_file(file)}
        for file in sorted(folder.iterdir())
    }
    stored = {
        "layout": LAYOUT,
        "format": found["format"],
        "model": info["model"],
        "config": info["config"],
        "dataset": {name: info["dataset"][name] for name in ("name", "hash")},
        "weights": hash_file(run.path / "model.safetensors"),
        **found,
        "versions": {**versions(), **found["versions"]},
        "files": files,
    }
    write_json(folder / MARKER, stored)
    return Export(path, json.loads(json.dumps(stored)))
