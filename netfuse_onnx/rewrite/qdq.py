"""Networks of DequantizeLinear, operator, QuantizeLinear whose scales differ: the operator works on bytes.

ONNX Runtime fuses such a group to one operator on bytes when it loads a model. In a merged graph scales are
one per model, along an axis, and then it does not, or it does and fails (gaps.SCALES_PER_AXIS_FUSED). So
the groups that it would fuse in a source are fused here, as it does it there, before the plan; the rules of
the operators on bytes keep the sums in int8 kernels.

Groups whose scales and zero points are the same in all models are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from netfuse_onnx.ops import traits
from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.rewrite.nodes import with_nodes
from netfuse_onnx.storage.weights import array
from netfuse_onnx.types import Correspondence, Node, ValueType, Weight

UINT8, INT8, INT32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
LEAST: dict[int, int] = {UINT8: 0, INT8: -128}
SAME_BIAS = 1e-4
"""Largest relative distance of a bias's scale from the product of the others."""

UNARY = {"Sigmoid": "QLinearSigmoid", "LeakyRelu": "QLinearLeakyRelu", "AveragePool": "QLinearAveragePool",
         "GlobalAveragePool": "QLinearGlobalAveragePool"}  # fmt: skip


@dataclass
class Group:
    """An operator between its DequantizeLinear nodes (None for a plain input) and its QuantizeLinear."""

    node: Node
    before: tuple[Node | None, ...]
    after: Node | None
    drop: tuple[int, ...]  # the nodes that the fused one replaces


def fuse_quantised(corr: Correspondence) -> Correspondence:
    """The correspondence with the groups fused whose scales differ between the models."""
    if not any(node.op == "DequantizeLinear" for node in corr.graph.nodes):
        return corr
    return _Pass(corr).run()


@dataclass
class _Pass:
    corr: Correspondence
    weights: dict[str, tuple[Weight, ...]] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    used: dict[str, list[int]] = field(default_factory=dict)

    def run(self) -> Correspondence:
        nodes = self.corr.graph.nodes
        self.weights = dict(self.corr.weights)
        for i, node in enumerate(nodes):
            self.made |= dict.fromkeys(filter(None, node.outputs), i)
            for name in dict.fromkeys(node.reads):
                self.used.setdefault(name, []).append(i)
        fresh: dict[int, Node] = {}
        dropped: set[int] = set()
        for i, node in enumerate(nodes):
            group = self._group(i, node)
            fused = FUSE[node.op](self, group) if group is not None else None
            if group is not None and fused is not None:
                fresh[i] = fused
                dropped |= set(group.drop)
        return with_nodes(self.corr, fresh, dropped, self.weights) if fresh else self.corr

    # ------------------------------------------------------------------ groups

    def _group(self, i: int, node: Node) -> Group | None:
        if node.domain or node.op not in FUSE or i in self.corr.attrs or len(node.outputs) != 1:
            return None
        before = tuple(self._quantiser(name, "DequantizeLinear") for name in node.inputs)
        if before[0] is None:
            return None
        drop, last = [i], node.outputs[0]
        follower = self._only_reader(last)
        if follower is not None and self.corr.graph.nodes[follower].op == "Relu" and node.op in SUMS:
            behind = self._only_reader(self.corr.graph.nodes[follower].outputs[0])
            if behind is not None and self._saturates(behind):
                drop, follower = [*drop, follower], behind
        after = None if follower is None else self._quantiser_at(follower, "QuantizeLinear")
        if follower is None or after is None:
            return Group(node, before, None, (i,))
        return Group(node, before, after, (*drop, follower))

    def _quantiser(self, name: str, op: str) -> Node | None:
        """The quantiser that makes a value: a node of operator `op` whose parameters are stored."""
        i = self.made.get(name)
        return None if i is None else self._quantiser_at(i, op)

    def _quantiser_at(self, i: int, op: str) -> Node | None:
        """Node i, where its operator is `op` and its parameters are stored."""
        node = self.corr.graph.nodes[i]
        plain = node.op == op and not node.domain and not node.attrs.get("block_size", 0)
        stored = all(name in self.weights for name in node.inputs[1:])
        return node if plain and stored and i not in self.corr.attrs else None

    def _only_reader(self, name: str) -> int | None:
        users = self.used.get(name, [])
        return users[0] if len(users) == 1 and name not in self.corr.graph.outputs else None

    def _saturates(self, i: int) -> bool:
        """True where a QuantizeLinear cuts off what Relu would: its zero point is the least byte."""
        node = self.corr.graph.nodes[i]
        if node.op != "QuantizeLinear" or len(node.inputs) < 3 or node.inputs[2] not in self.weights:
            return False
        parts = self.weights[node.inputs[2]]
        return all(p.dtype in LEAST and bool(np.all(array(p) == LEAST[p.dtype])) for p in parts)

    # ------------------------------------------------------------------ parameters

    def params(self, node: Node) -> tuple[str, str]:
        """Scale and zero point of a quantiser; a missing zero point is 0."""
        if len(node.inputs) > 2 and node.inputs[2]:
            return node.inputs[1], node.inputs[2]
        dtype = UINT8 if node.op == "QuantizeLinear" else self.dtype(node.inputs[0])
        name = f"{node.inputs[1]}/zero/{dtype}"
        size = self.weights[node.inputs[1]][0].shape
        bytes_each = 4 if dtype == INT32 else 1
        self.weights[name] = (Weight(dtype, size, bytes(bytes_each * int(np.prod(size, dtype=int)))),)
        return node.inputs[1], name

    def shape(self, name: str) -> Sequence[Any]:
        if name in self.weights:
            return self.weights[name][0].shape
        return self.corr.graph.types.get(name, ValueType()).dims or ()

    def dtype(self, name: str) -> int:
        if name in self.weights:
            return self.weights[name][0].dtype
        return self.corr.graph.types.get(name, ValueType()).dtype

    def differ(self, *quantisers: Node | None) -> bool:
        """True where some scale or zero point is not the same in all models."""
        names = [name for node in quantisers if node is not None for name in node.inputs[1:]]
        return any(len(self.weights.get(name, ())) > 1 for name in names)

    def one(self, *names: str) -> bool:
        """True where these are one number each."""
        return all(self.weights[name][0].shape in ((), (1,)) for name in names)

    def values(self, name: str) -> Iterator[NDArray[Any]]:
        """The value of a parameter in each model."""
        parts = self.weights[name]
        return (array(parts[m % len(parts)]) for m in range(self.corr.models))

    def narrowed(self, name: str) -> str | None:
        """A zero point for each filter as one number, where all filters have the same."""
        if self.one(name):
            return name
        each = [value.reshape(-1) for value in self.values(name)]
        if not all(value.size and (value == value[0]).all() for value in each):
            return None
        parts = [Weight(self.dtype(name), (), value[:1].tobytes()) for value in each]
        fresh = f"{name}/one"
        self.weights[fresh] = tuple(parts) if len(set(parts)) > 1 else (parts[0],)
        return fresh

    def same(self, a: tuple[str, str], b: tuple[str, str]) -> bool:
        """True where two pairs of scale and zero point are equal in every model."""
        if not self.one(*a, *b):
            return False
        pairs = [
            pair
            for x, y in zip(a, b, strict=True)
            for pair in zip(self.values(x), self.values(y), strict=True)
        ]
        return all(x.item() == y.item() and x.dtype == y.dtype for x, y in pairs)

    def is_product(self, bias: Node, a: str, b: str) -> bool:
        """True where a bias has no zero point, and its scale is that of the sums that it is added to."""
        scale, zero = self.params(bias)
        for s, x, w in zip(self.values(scale), self.values(a), self.values(b), strict=True):
            if not np.allclose(s.reshape(-1), x.reshape(-1) * w.reshape(-1), rtol=SAME_BIAS, atol=0.0):
                return False
        return self.dtype(bias.inputs[0]) == INT32 and not any(z.any() for z in self.values(zero))


# --------------------------------------------------------------------------- the fused operators

Fuse = Callable[[_Pass, Group], Node | None]


def _node(
    group: Group, op: str, inputs: Sequence[str], domain: str = "", without: Sequence[str] = ()
) -> Node:
    outputs = group.node.outputs if group.after is None else group.after.outputs
    attrs = {k: v for k, v in group.node.attrs.items() if k not in without}
    return Node(op, domain, group.node.name, tuple(inputs), tuple(outputs), attrs)


def _taken(run: _Pass, x: Node, w: Node, y: str = "") -> bool:
    """True for the types that the runtime's kernels take; `y` is the zero point of the result."""
    left, right = run.dtype(x.inputs[0]), run.dtype(w.inputs[0])
    bytes_in = left in (UINT8, INT8) and right in (UINT8, INT8)
    return bytes_in and (left == UINT8 or right == INT8) and (not y or run.dtype(y) == left)


def _runs_along(node: Node, axis: int, rank: int) -> bool:
    given = int(node.attrs.get("axis", 1))
    return (given + rank if given < 0 else given) == axis


def _conv(run: _Pass, group: Group) -> Node | None:
    x, w, *bias = group.before
    if x is None or w is None or group.after is None or None in bias or not run.differ(x, group.after):
        return None
    (xs, xz), (ws, wz), (ys, yz) = run.params(x), run.params(w), run.params(group.after)
    point = run.narrowed(wz)
    per_filter = run.one(ws) or _runs_along(w, 0, 4)
    if point is None or not per_filter or not run.one(xs, xz, ys, yz) or not _taken(run, x, w, yz):
        return None
    added = [b for b in bias if b is not None]
    if not all(run.is_product(b, xs, ws) for b in added):
        return None
    inputs = [x.inputs[0], xs, xz, w.inputs[0], ws, point, ys, yz, *(b.inputs[0] for b in added)]
    return _node(group, "QLinearConv", inputs)


def _matmul(run: _Pass, group: Group) -> Node | None:
    a, b = group.before
    if a is None or b is None or not run.differ(a, b, group.after):
        return None
    (xs, xz), (ws, wz) = run.params(a), run.params(b)
    rank = len(run.shape(b.inputs[0]))
    columns = run.one(ws) or (rank == 2 and _runs_along(b, 1, 2))
    if not columns or not run.one(xs, xz):
        return None
    if group.after is None:
        inputs = [a.inputs[0], b.inputs[0], xs, ws, xz, wz]
        return _node(group, "MatMulIntegerToFloat", inputs, MICROSOFT) if _taken(run, a, b) else None
    ys, yz = run.params(group.after)
    if not run.one(ys, yz) or not _taken(run, a, b, yz):
        return None
    return _node(group, "QLinearMatMul", [a.inputs[0], xs, xz, b.inputs[0], ws, wz, ys, yz])


def _gemm(run: _Pass, group: Group) -> Node | None:
    a, b, *bias = group.before
    if a is None or b is None or None in bias or not run.differ(a, b, group.after):
        return None
    attrs = group.node.attrs
    if float(attrs.get("alpha", 1.0)) != 1.0 or (bias and float(attrs.get("beta", 1.0)) != 1.0):
        return None
    (xs, xz), (ws, wz) = run.params(a), run.params(b)
    columns = run.one(ws) or _runs_along(b, 0 if attrs.get("transB", 0) else 1, 2)
    added = [c for c in bias if c is not None]
    result = [] if group.after is None else list(run.params(group.after))
    if not columns or not run.one(xs, xz, *result) or not _taken(run, a, b, *result[1:]):
        return None
    if not all(run.is_product(c, xs, ws) for c in added):
        return None
    inputs = [a.inputs[0], xs, xz, b.inputs[0], ws, wz, added[0].inputs[0] if added else "", *result]
    while not inputs[-1]:
        inputs.pop()
    return _node(group, "QGemm", inputs, MICROSOFT, ("beta",))


def _unary(run: _Pass, group: Group) -> Node | None:
    (x,) = group.before
    if x is None or group.after is None or not run.differ(x, group.after):
        return None
    params = [*run.params(x), *run.params(group.after)]
    kept = {int(v) for v in group.node.attrs.get("dilations", ())} <= {1}
    if not run.one(*params) or not kept or run.dtype(params[1]) != run.dtype(params[3]):
        return None
    if run.dtype(params[1]) not in (UINT8, INT8):
        return None
    op = UNARY[group.node.op]
    return _node(group, op, [x.inputs[0], *params], MICROSOFT, ("dilations", "storage_order"))


def _mover(run: _Pass, group: Group) -> Node | None:
    x = group.before[0]
    if x is None or group.after is None or not run.differ(x) or any(group.before[1:]):
        return None
    if not run.same(run.params(x), run.params(group.after)):
        return None
    return _node(group, group.node.op, [x.inputs[0], *group.node.inputs[1:]])


SUMS = ("Conv", "MatMul", "Gemm")
FUSE: dict[str, Fuse] = {
    "Conv": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(traits.keys("same_scale"), _mover),
}
