"""Low-rank differences written in a graph: beside a product with a weight, a branch of two small products.

A weight W_0 + L R of rank r costs one product with W_0 and two with the factors. Layout algebra, with A the
factor that is applied to x first:

    MatMul(x, W)   x..K, KO  -> Add(MatMul(x, W_0), MatMul(MatMul(x, A), B))     A Kr, B rO
    MatMul(W, x)   MK, KN    -> Add(MatMul(W_0, x), MatMul(B, MatMul(A, x)))     A rK, B Mr
    Gemm(x, W, c)  RK, KO    -> Add(Gemm(x, W_0, c), alpha (x A) B)              A Kr, B rO, also with transB
    Conv(x, W, c)  NCHW, OCkk -> Add(Conv(x, W_0, c), Conv(Conv(x, A), B))       A rCkk, B Or11

A branch is made of ordinary nodes and weights: the stages that follow need to know nothing of it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from netfuse_onnx.types import Graph, Node, ValueType

GEMM_WITHOUT_C = 11
"""The opset from which on the third input of Gemm may be absent."""

Matrix = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Branch:
    """The names of the weights of one branch: at the node of this index, beside `weight`. `scale` is a number
    that multiplies the product; '' for none."""

    node: int
    weight: str
    a: str
    b: str
    scale: str = ""


class Side(enum.Enum):
    """The part that a weight takes in a product."""

    RIGHT = "x W"
    RIGHT_TRANSPOSED = "x W^T"
    LEFT = "W x"
    FILTERS = "filters"


@dataclass(frozen=True, slots=True)
class Form:
    """The weight of a product, seen as a matrix L R: [first, rank] x [rank, rest]. Two nodes that read one
    weight in the same form can share the factors."""

    side: Side
    shape: tuple[int, ...]

    @property
    def matrix(self) -> tuple[int, int]:
        """The rows and columns of the weight as a matrix. A filter is one row."""
        return self.shape[0], math.prod(self.shape[1:])

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of A and B."""
        left, right = (self.matrix[0], rank), (rank, self.matrix[1])
        if self.side is Side.RIGHT:
            return left, right
        if self.side is Side.RIGHT_TRANSPOSED:
            return right[::-1], left[::-1]
        if self.side is Side.LEFT:
            return right, left
        return (rank, *self.shape[1:]), (*left, *(1 for _ in self.shape[2:]))

    def factors(self, left: Matrix, right: Matrix) -> tuple[Matrix, Matrix]:
        """Return A and B of the weight L R."""
        shapes = self.shapes(left.shape[1])
        if self.side is Side.RIGHT:
            return left, right
        if self.side is Side.RIGHT_TRANSPOSED:
            return right.T, left.T
        return right.reshape(shapes[0]), left.reshape(shapes[1])

    def matrices(self, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
        """Return L and R, from A and B as the graph has them."""
        if self.side is Side.RIGHT:
            return a, b
        if self.side is Side.RIGHT_TRANSPOSED:
            return b.T, a.T
        return b.reshape(b.shape[:2]), a.reshape(a.shape[0], math.prod(a.shape[1:]))


def form(node: Node, weight: str, shape: tuple[int, ...], opset: int) -> Form | str:
    """Return the form in which a node reads a weight, or the reason why it can't have a branch there, which
    completes 'because'."""
    if node.domain or node.reads.count(weight) != 1 or weight not in node.inputs:
        return "it is read by another operator than MatMul, Gemm and Conv"
    place = node.inputs.index(weight)
    if node.op == "MatMul":
        if len(shape) != 2:
            return "it is no matrix"
        return Form(Side.RIGHT if place else Side.LEFT, shape)
    if node.op == "Gemm" and place == 1 and len(shape) == 2:
        if not _plain(node) and opset < GEMM_WITHOUT_C:
            return f"a Gemm before opset {GEMM_WITHOUT_C} has a bias"
        return Form(Side.RIGHT_TRANSPOSED if node.attrs.get("transB", 0) else Side.RIGHT, shape)
    if node.op == "Conv" and place == 1 and len(shape) >= 3:
        return Form(Side.FILTERS, shape) if node.attrs.get("group", 1) == 1 else "its convolution has groups"
    return "it is read by another operator than MatMul, Gemm and Conv"


def with_branches(graph: Graph, branches: Sequence[Branch]) -> Graph:
    """Return the graph with the nodes of these branches. W_0 keeps the name of the weight, and the sum that
    of the node's output. The caller puts the weights of the branches into its own mapping.

    Several branches at one node add up. Types of the new values are those that follow from the node's output;
    inference tells the others.
    """
    by_node: dict[int, list[Branch]] = {}
    for branch in branches:
        by_node.setdefault(branch.node, []).append(branch)
    writer = _Writer(graph, branches)
    nodes: list[Node] = []
    for i, node in enumerate(graph.nodes):
        nodes += writer.node(node, by_node[i]) if i in by_node else [node]
    return replace(graph, nodes=tuple(nodes), types={**graph.types, **writer.types})


class _Writer:
    """Writes the nodes of branches. No name that it makes is in the graph already."""

    def __init__(self, graph: Graph, branches: Sequence[Branch]) -> None:
        self.graph = graph
        self.types: dict[str, ValueType] = {}
        values = (name for node in graph.nodes for name in (*node.reads, *node.outputs))
        weights = (name for each in branches for name in (each.a, each.b, each.scale))
        self._values = {*values, *weights, *graph.weights, *graph.inputs, *graph.outputs}
        self._nodes = {node.name for node in graph.nodes}

    def node(self, node: Node, branches: Sequence[Branch]) -> list[Node]:
        """Return the nodes that stand for a node with branches."""
        (result,) = node.outputs
        total = self._value(result, "base")
        made = [replace(node, outputs=(total,))]
        for k, branch in enumerate(branches):
            product = self._product(node, branch, made)
            last = k == len(branches) - 1
            out = result if last else self._value(result, "sum")
            made.append(self._named(node, "sum", "Add", (total, product), out))
            total = out
        return made

    def _product(self, node: Node, branch: Branch, made: list[Node]) -> str:
        """Write the two small products, and return the value that they give."""
        (result,) = node.outputs
        inner, product = self._new(result, "down"), self._value(result, "up")
        x = node.inputs[1 - node.inputs.index(branch.weight)]
        first, second, attrs = "MatMul", "MatMul", (dict[str, Any](), dict[str, Any]())
        if node.op == "Conv":
            first, second = "Conv", "Conv"
            attrs = {**node.attrs}, {}
        elif node.op == "Gemm" and not _plain(node):
            first, second = "Gemm", "Gemm"
            attrs = _only(node, "transA"), _only(node, "alpha")
        swapped = node.op == "MatMul" and node.inputs[0] == branch.weight
        made.append(self._named(node, "down", first, _ordered(x, branch.a, swapped), inner, attrs[0]))
        if branch.scale:
            scaled = self._new(result, "scaled")
            made.append(self._named(node, "scaled", "Mul", (inner, branch.scale), scaled))
            inner = scaled
        made.append(self._named(node, "up", second, _ordered(inner, branch.b, swapped), product, attrs[1]))
        return product

    def _named(
        self,
        node: Node,
        role: str,
        op: str,
        inputs: tuple[str, ...],
        out: str,
        attrs: Mapping[str, Any] | None = None,
    ) -> Node:
        name = _unique(f"{node.name or node.outputs[0]}/{role}", self._nodes)
        return Node(op, "", name, inputs, (out,), attrs or {})

    def _value(self, result: str, role: str) -> str:
        """Return the name of a new value of the type of the result."""
        name = self._new(result, role)
        if result in self.graph.types:
            self.types[name] = self.graph.types[result]
        return name

    def _new(self, result: str, role: str) -> str:
        return _unique(f"{result}/{role}", self._values)


def _plain(gemm: Node) -> bool:
    """Return True for a Gemm whose product is that of a MatMul."""
    return not gemm.attrs.get("transA", 0) and gemm.attrs.get("alpha", 1.0) == 1.0


def _only(node: Node, name: str) -> dict[str, Any]:
    return {name: node.attrs[name]} if name in node.attrs else {}


def _ordered(x: str, factor: str, swapped: bool) -> tuple[str, str]:
    return (factor, x) if swapped else (x, factor)


def _unique(name: str, taken: set[str]) -> str:
    unique, count = name, 2
    while unique in taken:
        unique, count = f"{name}-{count}", count + 1
    taken.add(unique)
    return unique
