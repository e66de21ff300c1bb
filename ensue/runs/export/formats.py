"""Graphs as files, and files as functions: ONNX and PyTorch's own format."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from ensue.errors import ExtraError, RunError
from ensue.runs.export.graphs import BATCH, Signature

Compute = Callable[[Mapping[str, Tensor]], list[Tensor]]

LARGEST = {BATCH: 1 << 20}  # of a size that may be any
LARGEST_OTHER = 1 << 24
ONE_FILE_BYTES = 1 << 30  # of weights; a file of ONNX may not have 2 GB


@dataclass(frozen=True)
class GraphFile:
    """How a format is written, read back, and what it needs.

    name: of the file. packages: whose versions count.
    """

    name: str
    packages: tuple[str, ...]
    write: Callable[[Any, Path, Sequence[str], Sequence[str]], None]
    read: Callable[[Path], Compute]

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages."""
        return {package: version(package) for package in self.packages}


def trace(
    graph: nn.Module, inputs: Sequence[Signature], example: Mapping[str, Tensor]
) -> torch.export.ExportedProgram:
    """Return the operations of a graph, for any numbers of rows and lengths.

    Args:
        example: a tensor for each input, by name, of which no size is 0 or 1.
    """
    sizes: dict[str, Any] = {}
    shapes = [
        {
            axis: _size(size, sizes)
            for axis, size in enumerate(signature.shape)
            if isinstance(size, str)
        }
        for signature in inputs
    ]
    names = [signature.name for signature in inputs]
    own = inspect.signature(graph.forward).parameters
    with torch.no_grad(), _quiet():
        if not set(names) <= own.keys():  # it takes any number of them, by place
            tensors = tuple(example[name] for name in names)
            by_place = {next(iter(own)): tuple(shapes)}
            return torch.export.export(graph, tensors, dynamic_shapes=by_place, strict=False)
        by_name = dict(zip(names, shapes, strict=True))
        return torch.export.export(graph, (), dict(example), dynamic_shapes=by_name, strict=False)


def _size(name: str, sizes: dict[str, Any]) -> Any:
    """Return the size of a name, the same one each time; "x + 1" is one more than "x"."""
    base, plus, _ = name.partition(" + 1")
    if base not in sizes:
        sizes[base] = Dim(base, min=1, max=LARGEST.get(base, LARGEST_OTHER))
    return sizes[base] + 1 if plus else sizes[base]


def _write_torch(
    program: torch.export.ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    with _quiet():
        torch.export.save(program, path)


def _read_torch(path: Path) -> Compute:
    with _quiet():
        program = torch.export.load(path)
        module = program.module()
    # A graph of rows has one parameter for all tensors.
    by_place = bool(program.call_spec.in_spec.child(0).num_leaves)

    def compute(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            found = module(*inputs.values()) if by_place else module(**inputs)
        return [found] if isinstance(found, Tensor) else list(found)

    return compute


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    table: dict[Any, Callable[..., Any]] = {torch.ops.aten.repeat_interleave.Tensor: _repeat}
    with _quiet():
        found = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table=table,
        )
    if found is None:
        raise RunError("the graph must have a form in ONNX; PyTorch found none. Use torch-export.")
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    found.save(path, external_data=size > ONE_FILE_BYTES)


def _repeat(repeats: Any, output_size: Any = None) -> Any:
    """Return what stands for the numbers of rows, of which PyTorch's own does not know the size."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_repeat_interleave_Tensor

    return aten_repeat_interleave_Tensor(repeats)


def _read_onnx(path: Path) -> Compute:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def compute(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return [torch.from_numpy(values) for values in found]

    return compute


GRAPH_FILES: dict[str, GraphFile] = {
    "onnx": GraphFile("model.onnx", ("onnx", "onnxruntime", "onnxscript"), _write_onnx, _read_onnx),
    "torch-export": GraphFile("model.pt2", (), _write_torch, _read_torch),
}


def require_onnx() -> None:
    """Check that ONNX files can be written and computed.

    Raises:
        ExtraError: a package is not installed.
    """
    for package in GRAPH_FILES["onnx"].packages:
        try:
            with _quiet():
                __import__(package)
        except ImportError:
            raise ExtraError(package, "onnx", "an export to ONNX") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporters say of their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
