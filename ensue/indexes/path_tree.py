"""The paths that hold items as a tree, and the networks of the layers, as plain arrays.

```
paths 0-1: items 1, 2    0-2: item 2    3-0: item 1        (D = 2, J = 2)

nodes          0   1 | 2    3    4          layer 0 is nodes 0 and 1, layer 1 nodes 2 to 4
choices        0   3 | 1    2    0
first_child    2   4   5                    the children of node 0 are 2 and 3, of node 1 it is 4
leaves                 0    1    2
first_item             0    2    3    4     into leaf_items 1 2 2 1
```

So a node that has no items below it does not exist, and a search cannot end at an empty path.
Shapes: N nodes, L leaves, D layers, K nodes of a layer, E width of a query, H hidden width, J paths
of an item, I items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.nn.path_layers import PathLayers


class PathTree(NamedTuple):
    """A tree of paths. A tuple of arrays: compiled code reads it.

    starts: [D + 1] int64, the first node of each layer, and N.
    choices: [N] int64, of each node in its layer.
    first_child: [N - L + 1] int64.
    first_item: [L + 1] int64.
    leaf_items: [I * J] int64, ascending in each leaf.
    """

    starts: NDArray[np.int64]
    choices: NDArray[np.int64]
    first_child: NDArray[np.int64]
    first_item: NDArray[np.int64]
    leaf_items: NDArray[np.int64]

    @property
    def num_leaves(self) -> int:
        """Number of paths with items L."""
        return len(self.first_item) - 1

    @classmethod
    def from_paths(cls, paths: NDArray[np.int64], *, depth: int, width: int) -> PathTree:
        """Return the tree of the codes [I, J] of the paths of items 1..I."""
        items = np.repeat(np.arange(1, len(paths) + 1), paths.shape[1])
        order = np.lexsort((items, paths.ravel()))
        leaves, first_item = np.unique(paths.ravel()[order], return_index=True)
        prefixes = [np.unique(leaves // width ** (depth - 1 - layer)) for layer in range(depth)]
        starts = np.cumsum([0, *map(len, prefixes)])
        children = [
            starts[layer + 1] + np.searchsorted(prefixes[layer + 1] // width, prefixes[layer])
            for layer in range(depth - 1)
        ]
        return cls(
            starts.astype(np.int64),
            np.concatenate([prefix % width for prefix in prefixes]),
            np.concatenate([*children, starts[-1:]]).astype(np.int64),
            np.append(first_item, paths.size).astype(np.int64),
            items[order].astype(np.int64),
        )


class PathNetwork(NamedTuple):
    """The weights of `PathLayers`, with the embeddings of choices multiplied in.

    query_weight: [D, E, H]. query_bias: [D, H].
    tables: [D (D - 1) / 2, K, H], what a choice gives to a later layer: row d (d - 1) / 2 + e is of
        layer e for layer d.
    weight: [D, H, K]. bias: [D, K].
    """

    query_weight: NDArray[np.float32]
    query_bias: NDArray[np.float32]
    tables: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    @torch.no_grad()
    def from_layers(cls, layers: PathLayers) -> PathNetwork:
        """Return the arrays of the layers, in float32."""
        depth = range(layers.depth)
        hidden, output = zip(*map(layers.networks, depth), strict=True)
        tables = [layers.choice_part(d, e).float().cpu().numpy() for d in depth for e in range(d)]
        shape = (len(tables), layers.width, hidden[0].out_features)
        parts = (
            torch.stack([one.weight[:, : layers.dim].T for one in hidden]),
            torch.stack([one.bias for one in hidden]),
            torch.stack([one.weight.T for one in output]),
            torch.stack([one.bias for one in output]),
        )
        query_weight, query_bias, weight, bias = (
            part.float().cpu().contiguous().numpy() for part in parts
        )
        stacked = np.array(tables, dtype=np.float32).reshape(shape)
        return cls(query_weight, query_bias, stacked, weight, bias)
