"""TAGConv(K=2) of `benchmarks.propagation`, by PyTorch Geometric.

PYTHON benchmarks/_propagation_pyg.py PROBLEM.npz ANSWERS.npz
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch_geometric.nn import TAGConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from benchmarks._propagation_steps import measure, resident_bytes


def main() -> int:
    """Write seconds, bytes, outputs and gradients of both forms of the graph."""
    warnings.simplefilter("ignore")  # of torch: sparse tensors are a beta
    with np.load(sys.argv[1]) as stored:
        given: dict[str, Any] = dict(stored)
    torch.set_num_threads(int(given["threads"]))
    before = resident_bytes()
    num_a, num_b = map(int, given["sizes"])
    pairs = np.stack([given["sources"], given["targets"] + num_a])
    edge_index = torch.from_numpy(np.concatenate([pairs, pairs[::-1]], axis=1))
    edge_index, weights = gcn_norm(edge_index, None, num_a + num_b, add_self_loops=False)
    dim = given["x"].shape[1]
    conv = TAGConv(dim, dim, K=2, normalize=False)
    with torch.no_grad():
        for layer, values in zip(conv.lins, given["theta"], strict=True):
            layer.weight.copy_(torch.from_numpy(values).T)
        conv.bias.copy_(torch.from_numpy(given["bias"]))
    x = torch.from_numpy(given["x"]).requires_grad_()
    grad = torch.from_numpy(given["grad"])
    size = (num_a + num_b, num_a + num_b)
    matrix = torch.sparse_coo_tensor(edge_index, weights, size).coalesce().to_sparse_csr()

    def step(*graph: Any) -> tuple[Any, Any]:
        output = conv(x, *graph)
        output.backward(grad)
        return output, x.grad

    answers: dict[str, Any] = {}
    parameters = [x, *conv.parameters()]
    cases: dict[str, tuple[Any, ...]] = {
        "sparse tensor": (matrix,),
        "edge list": (edge_index, weights),
    }
    for case, graph in cases.items():
        own = partial(step, *graph)
        answers |= measure(case, own, parameters, int(given["steps"]), before)
    np.savez(sys.argv[2], **answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
