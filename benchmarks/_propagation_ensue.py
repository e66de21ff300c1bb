"""The AL-GCN block and LightGCN's propagation of `benchmarks.propagation`, by Ensue.

PYTHON benchmarks/_propagation_ensue.py PROBLEM.npz ANSWERS.npz
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from benchmarks._propagation_steps import measure, resident_bytes
from ensue.nn.graph_convolution import GraphConvolution
from ensue.nn.propagation import Adjacency

NUM_LAYERS = 3


def main() -> int:
    """Write seconds, bytes, outputs and gradients."""
    with np.load(sys.argv[1]) as stored:
        given: dict[str, Any] = dict(stored)
    torch.set_num_threads(int(given["threads"]))
    before = resident_bytes()
    edges = (given["sources"] + 1, given["targets"] + 1)
    num_a, num_b = map(int, given["sizes"])
    weights = np.ones(len(edges[0]), dtype=np.float32)
    graph = Adjacency.build(*edges, weights, (num_a, num_b))
    dim = given["x"].shape[1]
    block = GraphConvolution((dim, dim), dim, activation="identity", is_shared=True)
    with torch.no_grad():
        for theta, values in zip(block.a.theta, given["theta"], strict=True):
            theta.copy_(torch.from_numpy(values))
        block.a.bias.copy_(torch.from_numpy(given["bias"]))
    sizes = [num_a, num_b]
    x_a, x_b = (part.requires_grad_() for part in torch.split(torch.from_numpy(given["x"]), sizes))
    grads = torch.split(torch.from_numpy(given["grad"]), sizes)

    def step() -> tuple[Any, Any]:
        outputs = block(graph, x_a, x_b)
        torch.autograd.backward(outputs, grads)
        return outputs, (x_a.grad, x_b.grad)

    parameters = [x_a, x_b, *block.parameters()]
    answers = measure("block", step, parameters, int(given["steps"]), before)
    with torch.no_grad():
        answers |= measure(
            "propagation",
            lambda: (graph.layer_mean(x_a, x_b, NUM_LAYERS), ()),
            [],
            int(given["steps"]),
            before,
        )
    num_bytes = 2 * NUM_LAYERS * graph.num_edges * dim * 4
    source = torch.zeros(64 << 20, dtype=torch.uint8)
    target = torch.zeros_like(source)
    copying = measure("copy", lambda: (target.copy_(source), ()), [], int(given["steps"]), before)
    rate = len(source) / float(np.median(copying["copy seconds"]))
    np.savez(sys.argv[2], **answers, floor=num_bytes / rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
