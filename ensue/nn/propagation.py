"""Products of a sparse bipartite graph with dense rows: what graph models spend their time on.

An edge costs a row of the other side, D numbers from wherever it lies, and two arithmetic
operations for each: the floor is the traffic of 4 D E bytes a product. So an output row stays in
cache until it is done, four edges are added to it in one pass (their rows come from memory at the
same time), and rows are given to threads by their numbers of edges. Sums are taken in the order of
the edges: results do not depend on the number of threads.
On a GPU, and for other types than float32, the products are those of torch.sparse.
Shapes: n_a, n_b entities of the two sides, E edges, D width.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.nn import cpu_kernels as kernels
from ensue.nn.stretches import run_stretches

Norm = Literal["sym", "row"]

LEAST = 1 << 14  # edges of a stretch: below it a thread costs more than it saves
STRETCHES = 4  # for each thread: one that is held up leaves its last ones to the others

# Sums are not reordered beyond the four edges written out below; no fast math but fused products.
_compile: Any = numba.njit(cache=True, nogil=True, fastmath={"contract"})


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix [n, m] by rows: row i has its values in offsets[i]:offsets[i + 1].

    offsets: [n + 1] int32; columns: [E] int32, ascending in a row; values: [E].
    edges: [E] int32, the number that each edge had when the graph was built.
    num_columns: m.
    """

    offsets: Tensor
    columns: Tensor
    values: Tensor
    edges: Tensor
    num_columns: int

    @property
    def num_rows(self) -> int:
        """The number of rows n."""
        return len(self.offsets) - 1

    def multiply(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return the product with x [m, D], and `plus` [n, D] where there is one; no gradient.

        It has the type of x, float32 in place of shorter ones.
        """
        if x.dtype not in (torch.float32, torch.float64):
            x = x.float()
        if x.device.type != "cpu" or x.dtype != torch.float32:
            product = torch.mm(self._csr.to(x.dtype), x)
            return product if plus is None else product.add_(plus)
        out = x.new_empty(self.num_rows, x.shape[1])
        start = out[:, :0] if plus is None else plus.float()
        offsets, columns, values, start, x_array, out_array = kernels.arrays(
            self.offsets, self.columns, self.values, start, x, out
        )
        arrays = (out_array, start, offsets[:-1], offsets[1:])
        run_stretches(_multiply, arrays, (columns, values, x_array), self._cuts)
        return out

    @cached_property
    def _cuts(self) -> list[int]:
        """Where stretches of rows with about as many edges begin and end."""
        num_edges, threads = len(self.columns), torch.get_num_threads()
        count = max(1, min(STRETCHES * threads, num_edges // LEAST)) if threads > 1 else 1
        inner = np.linspace(0, num_edges, count + 1)[1:-1]
        return [0, *np.searchsorted(self.offsets.numpy(), inner).tolist(), self.num_rows]

    @cached_property
    def _csr(self) -> Tensor:
        parts = (self.offsets, self.columns, self.values)
        size = (self.num_rows, self.num_columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls these tensors a beta, once
            return torch.sparse_csr_tensor(*parts, size, check_invariants=False)

    def to(self, device: torch.device | str) -> SparseRows:
        """Return the matrix on `device`."""
        names = ("offsets", "columns", "values", "edges")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def without(self, is_dropped: Tensor, scale: float = 1.0) -> SparseRows:
        """Return the matrix with the values of some edges at 0, and the others times `scale`.

        Args:
            is_dropped: by the number of an edge.
        """
        return replace(self, values=self.values.masked_fill(is_dropped[self.edges], 0) * scale)


@dataclass(frozen=True)
class Adjacency:
    """A normalized bipartite graph, for products in both directions and their gradients.

    With the weights W [n_a, n_b] and the degrees D_a and D_b, its row and column sums:
    norm "sym": to_a is D_a^-1/2 W D_b^-1/2, and to_b its transpose.
    norm "row": to_a is D_a^-1 W, and to_b is D_b^-1 W^T: means over neighbors.
    An entity without an edge has zeros. Rows are without padding: entity e is row e - 1.

    to_a: [n_a, n_b]; to_b: [n_b, n_a].
    from_a: the transpose of to_b [n_a, n_b]; from_b: that of to_a [n_b, n_a]; for gradients.
    """

    to_a: SparseRows
    to_b: SparseRows
    from_a: SparseRows
    from_b: SparseRows

    @classmethod
    def build(
        cls,
        sources: NDArray[np.integer],
        targets: NDArray[np.integer],
        weights: NDArray[np.floating],
        sizes: tuple[int, int],
        *,
        norm: Norm = "sym",
    ) -> Adjacency:
        """Return the graph of edges [E] between entities 1..n_a and 1..n_b.

        Args:
            weights: > 0; an edge given twice counts as one of the sum.
            sizes: n_a and n_b.

        Raises:
            ValueError: there is an id or a weight that cannot be, or 2 ** 31 edges or more.
        """
        _check(sources, targets, weights, sizes)
        a, b = np.asarray(sources) - 1, np.asarray(targets) - 1
        amounts = np.asarray(weights, dtype=np.float64)
        of_a = np.bincount(a, amounts, minlength=sizes[0])[a]
        of_b = np.bincount(b, amounts, minlength=sizes[1])[b]
        if norm == "sym":
            shared = amounts / np.sqrt(of_a * of_b)
            to_a, to_b = _by_rows(a, b, sizes, shared), _by_rows(b, a, sizes[::-1], shared)
            return cls(to_a, to_b, from_a=to_a, from_b=to_b)
        to_a, from_a = _by_rows(a, b, sizes, amounts / of_a, amounts / of_b)
        to_b, from_b = _by_rows(b, a, sizes[::-1], amounts / of_b, amounts / of_a)
        return cls(to_a, to_b, from_a, from_b)

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of entities n_a and n_b."""
        return self.to_a.num_rows, self.to_b.num_rows

    @property
    def num_edges(self) -> int:
        """The number of edges E."""
        return len(self.to_a.columns)

    def propagate(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return to_a x [n_a, D] for x [n_b, D], and `plus` [n_a, D] where there is one."""
        return _product(self.to_a, self.from_b, x, plus)

    def propagate_back(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return to_b x [n_b, D] for x [n_a, D], and `plus` [n_b, D] where there is one."""
        return _product(self.to_b, self.from_a, x, plus)

    def layer_mean(self, x_a: Tensor, x_b: Tensor, num_layers: int) -> tuple[Tensor, Tensor]:
        """Return the mean of layers 0..num_layers of both sides, [n_a, D] and [n_b, D].

        Layer 0 is x; each next one is to_a of the other side's, or to_b. No layer is stored.
        """
        _check_rows(self.to_a, x_b, x_a)
        both: tuple[Tensor, Tensor] = _LayerMean.apply(x_a, x_b, self, num_layers)  # type: ignore[no-untyped-call]
        return both

    def without(self, is_dropped: Tensor, scale: float = 1.0) -> Adjacency:
        """Return the graph without some of its edges, [E] bool in the order of `build`.

        Its normalization is that of the whole graph, times `scale`.
        """
        return self._each(lambda matrix: matrix.without(is_dropped, scale))

    def to(self, device: torch.device | str) -> Adjacency:
        """Return the graph on `device`."""
        return self._each(lambda matrix: matrix.to(device))

    def transposed(self) -> Adjacency:
        """Return what the gradients of a product with this graph are products with."""
        return Adjacency(self.from_a, self.from_b, self.to_a, self.to_b)

    def _each(self, change: Any) -> Adjacency:
        to_a, to_b = change(self.to_a), change(self.to_b)
        from_a = to_a if self.from_a is self.to_a else change(self.from_a)
        from_b = to_b if self.from_b is self.to_b else change(self.from_b)
        return Adjacency(to_a, to_b, from_a, from_b)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, plus: Tensor | None, matrix: SparseRows, transpose: SparseRows
    ) -> Tensor:
        ctx.matrix, ctx.transpose = matrix, transpose
        return matrix.multiply(x, plus)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = _Product.apply(grad, None, ctx.transpose, ctx.matrix)  # type: ignore[no-untyped-call]
        return to_x, grad if ctx.needs_input_grad[1] else None, None, None


class _LayerMean(torch.autograd.Function):
    """The mean of layers of x is x + A (x + A (x + ...)) over their number: linear, so its gradient
    is the same of the transpose.
    """

    @staticmethod
    def forward(
        ctx: Any, x_a: Tensor, x_b: Tensor, graph: Adjacency, num_layers: int
    ) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.num_layers = graph, num_layers
        sum_a, sum_b = x_a, x_b
        for _ in range(num_layers):
            sum_a, sum_b = graph.to_a.multiply(sum_b, x_a), graph.to_b.multiply(sum_a, x_b)
        share = 1 / (num_layers + 1)
        return sum_a * share, sum_b * share

    @staticmethod
    def backward(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor, Tensor, None, None]:
        graph = ctx.graph.transposed()
        to_a, to_b = _LayerMean.apply(grad_a, grad_b, graph, ctx.num_layers)  # type: ignore[no-untyped-call]
        return to_a, to_b, None, None


def _product(matrix: SparseRows, transpose: SparseRows, x: Tensor, plus: Tensor | None) -> Tensor:
    _check_rows(matrix, x, plus)
    out: Tensor = _Product.apply(x, plus, matrix, transpose)  # type: ignore[no-untyped-call]
    return out


def _check_rows(matrix: SparseRows, x: Tensor, plus: Tensor | None) -> None:
    """Raise a ValueError unless x is [m, D] and plus [n, D]."""
    if x.dim() != 2 or len(x) != matrix.num_columns:
        raise ValueError(
            f"this graph is multiplied with rows [{matrix.num_columns}, D]; got {tuple(x.shape)}"
        )
    if plus is not None and plus.shape != (matrix.num_rows, x.shape[1]):
        wanted = (matrix.num_rows, x.shape[1])
        raise ValueError(f"what is added to the product must be {wanted}; got {tuple(plus.shape)}")


def _check(
    sources: NDArray[np.integer],
    targets: NDArray[np.integer],
    weights: NDArray[np.floating],
    sizes: tuple[int, int],
) -> None:
    """Raise a ValueError unless these are the edges of a graph."""
    if not len(sources) == len(targets) == len(weights) < 2**31:
        counts = (len(sources), len(targets), len(weights))
        raise ValueError(
            f"a graph needs a source, a target and a weight for each of its edges, fewer than "
            f"2 ** 31; got {counts}"
        )
    for ids, size in zip((sources, targets), sizes, strict=True):
        if len(ids) and not 1 <= ids.min() <= ids.max() <= size:
            raise ValueError(f"ids must be 1 to {size}; got {ids.min()} to {ids.max()}")
    if len(weights) and not (np.isfinite(weights).all() and weights.min() > 0):
        raise ValueError(f"weights of edges must be positive and finite; got {weights.min()}")


def _by_rows(
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    sizes: tuple[int, int],
    *values: NDArray[np.float64],
) -> Any:
    """Return a matrix of the same edges for each of `values`; the one itself, if it is one."""
    order = np.lexsort((columns, rows))
    offsets = np.zeros(sizes[0] + 1, dtype=np.int32)
    np.cumsum(np.bincount(rows, minlength=sizes[0]), out=offsets[1:])
    shared = [torch.from_numpy(a.astype(np.int32)) for a in (offsets, columns[order], order)]
    made = [
        SparseRows(
            shared[0],
            shared[1],
            torch.from_numpy(own[order].astype(np.float32)),
            shared[2],
            sizes[1],
        )
        for own in values
    ]
    return made if len(made) > 1 else made[0]


@_compile
def _multiply(out, plus, starts, ends, columns, values, x):  # type: ignore[no-untyped-def]
    """out[i] = plus[i] + sum over e in starts[i]:ends[i] of values[e] * x[columns[e]].

    out [n, D]; plus [n, D], or [n, 0] for nothing; x [m, D].
    """
    for i in range(len(out)):
        row, edge = out[i], starts[i]
        if plus.shape[1]:
            for d in range(row.shape[0]):
                row[d] = plus[i, d]
        else:
            for d in range(row.shape[0]):
                row[d] = 0
        while edge + 4 <= ends[i]:
            x0, x1 = x[columns[edge]], x[columns[edge + 1]]
            x2, x3 = x[columns[edge + 2]], x[columns[edge + 3]]
            v0, v1, v2, v3 = values[edge], values[edge + 1], values[edge + 2], values[edge + 3]
            for d in range(row.shape[0]):
                row[d] += v0 * x0[d] + v1 * x1[d] + (v2 * x2[d] + v3 * x3[d])
            edge += 4
        while edge < ends[i]:
            x0, v0 = x[columns[edge]], values[edge]
            for d in range(row.shape[0]):
                row[d] += v0 * x0[d]
            edge += 1
