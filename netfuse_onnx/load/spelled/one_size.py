"""One spelling for arithmetic with sizes, and for what only changes a shape.

Exporters compute a target of Reshape or Expand in many ways: from Shape, Gather, Unsqueeze and Concat, or
with 0 and -1 in a constant. Where the dims before and after are known as polynomials (sizes.py), the target
follows from them. Sizes that are left are computed from the shapes of the inputs, in one way. An Expand,
Reshape, Slice or Gather without effect is dropped. Every rewriting holds for all sizes at which the file
runs, as long as inputs with one symbolic dim have one size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.spelled import size_rules, value_rules  # noqa: F401  their rules register
from netfuse_onnx.load.spelled.engine import live
from netfuse_onnx.load.spelled.polynomials import product
from netfuse_onnx.load.spelled.size_rules import whole
from netfuse_onnx.load.spelled.sized_nodes import Emitted
from netfuse_onnx.load.spelled.sizes import WHOLE, Dims, Indices, Sizes
from netfuse_onnx.ops import traits
from netfuse_onnx.types import Graph, Node, Source, Weight

VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that keep the elements and their order."""
NEUTRAL = ("Cast", "Concat", "Expand", "Gather", "GatherND", "Identity", "Slice", "Tile", "Transpose")
"""Operators that are views where their operands have no effect."""


NAME = "sizes"
SAYS = "Sizes are computed from the shapes of inputs, and changes of a shape alone are written in one way"


def respelled(source: Source) -> tuple[Graph, int, frozenset[Weight]]:
    """Return the graph in this spelling, the number of nodes that it changed, and its constants; the same
    graph object where nothing changes."""
    graph, made, original = source.graph, set[Weight](), source.graph
    for _ in range(PASSES):
        typed = infer(unclaimed(replace(source, graph=graph))).graph
        one = _Pass(Sizes(replace(source, graph=graph), typed))
        if (new := one.run()) == graph:
            break
        graph = new
        made.update(one.new.weights.values())
    left = {node.outputs: node for node in graph.nodes}
    return graph, sum(left.get(node.outputs) != node for node in original.nodes), frozenset(made)


PASSES = 4
"""Sizes that a pass makes known may tell others. Networks need two passes."""


class _Pass:
    """One walk over the nodes. `alias` has the new names of values, `roots` the value that a view shows."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.graph = sizes, sizes.graph
        self.new = Emitted(sizes)
        self.alias: dict[str, str] = {}
        self.roots: dict[str, str] = {}
        self.twins: dict[object, str] = {}
        captured = {name for node in self.graph.nodes for name in node.captured}
        self.kept = {*self.graph.outputs, *captured}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self._respell(node)
        weights = {**self.graph.weights, **self.new.weights}
        return live(replace(self.graph, nodes=tuple(self.new.nodes), weights=weights))

    def _respell(self, node: Node) -> None:
        (first, *more) = node.outputs
        plain = not node.domain and not more and first not in self.kept
        if plain and self._computed(first):
            return  # whoever reads it makes it anew
        if plain and (node.op in VIEWS or self._without_effect(node)):
            root = self.roots.get(node.inputs[0], node.inputs[0])
            if self._viewed(node, root):
                return
        self._add(replace(node, inputs=tuple([self._operand(name) for name in node.inputs])))

    def _add(self, node: Node) -> None:
        """Add a node, unless an equal one was added: then its value is that one's."""
        (first, *more) = node.outputs
        plain = not more and first not in self.kept and not traits.random(node)
        if plain and not traits.has_bodies(node):
            attrs = sorted((name, str(value)) for name, value in node.attrs.items())
            key = (node.key, *map(self._same, node.inputs), *attrs)
            twin = self.twins.setdefault(key, first)
            if twin != first:
                self.alias[first] = twin
                return
        self.new.nodes.append(node)

    def _same(self, name: str) -> object:
        """Return a key that equal operands have: names, and the content of small constants of integers."""
        weight = self.graph.weights.get(name)
        whole = weight is not None and weight.dtype in WHOLE and isinstance(weight.data, bytes)
        return weight if whole else name

    def _computed(self, name: str) -> bool:
        """Return True where a value is small and known by sizes of the inputs alone."""
        values = self.sizes.values.get(name)
        if values is None or isinstance(values, Indices) or self.sizes.dtype(name) not in WHOLE:
            return False
        return values.ndim <= 1 and all(map(self.new.can, values.reshape(-1)))

    def _operand(self, name: str) -> str:
        """Return the new name of an operand; of known sizes, that of a constant or of their one spelling."""
        if name in self.graph.weights:
            return name
        if self._computed(name):
            values = self.sizes.array(name)
            return self.new.value(values, self.sizes.dtype(name))
        return self.alias.get(name, name)

    # ------------------------------------------------------------------ views

    def _without_effect(self, node: Node) -> bool:
        """Return True where a node gives the elements of its first input, in their order."""
        if node.op not in NEUTRAL:
            return False
        sizes, data = self.sizes, node.inputs[0]
        dims, result = sizes.dims.get(data), sizes.dims.get(node.outputs[0])
        if dims is None or result is None:
            return False
        match node.op:
            case "Cast":
                return sizes.dtype(data) == sizes.dtype(node.outputs[0]) != 0
            case "Concat":
                return len(node.inputs) == 1
            case "Transpose":
                perm = node.attrs.get("perm") or range(len(dims))[::-1]
                moved = [k for k in perm if dims[k].constant != 1]
                return moved == sorted(moved)
            case "Slice":
                return dims == result and self._forward(node)
            case "Gather":
                axis = node.attrs.get("axis", 0) % max(1, len(dims))
                at = sizes.value(node.inputs[1])
                return axis == 0 and bool(dims) and whole(at, dims[:1])
            case "GatherND":
                return _all_indices(sizes, node, dims)
        return dims == result  # Expand, Identity, Tile

    def _forward(self, node: Node) -> bool:
        steps = node.inputs[4] if len(node.inputs) > 4 else ""
        return not steps or all(step.constant == 1 for step in self.sizes.array(steps).reshape(-1))

    def _viewed(self, node: Node, root: str) -> bool:
        """Write a view of its root in one way; False where the dims do not tell how."""
        name = node.outputs[0]
        before, after = self.sizes.dims.get(root), self.sizes.dims.get(name)
        if before is None or after is None or root in self.graph.weights or not _equal_count(before, after):
            return False
        base = self.alias.get(root, root)
        if before == after:
            self.alias[name], self.roots[name] = base, root
            return True
        made = self._view(node, base, before, after)
        if made is not None:
            self._add(made)
            self.roots[name] = root
        return made is not None

    def _view(self, node: Node, base: str, before: Dims, after: Dims) -> Node | None:
        """Return the node that gives `base` other dims."""
        for op, axes in (("Unsqueeze", _added(before, after)), ("Squeeze", _added(after, before))):
            if axes and self.sizes.opset >= 13:
                operand = self.new.constant(np.array(axes, np.int64))
                return replace(node, op=op, inputs=(base, operand), attrs={})
        target = _target(before, after)
        if target is None:
            if not all(map(self.new.can, after)):
                return None
            values = np.empty(len(after), object)
            values[:] = after
            operand = self.new.value(values, 7)
        else:
            operand = self.new.constant(np.array(target, np.int64))
        return replace(node, op="Reshape", inputs=(base, operand), attrs={})


def _all_indices(sizes: Sizes, node: Node, dims: Dims) -> bool:
    """Return True where a GatherND fetches each element of all indexed axes, in their order."""
    return False if node.attrs.get("batch_dims") else value_rules.each_place(sizes, node.inputs[1], dims)


def _equal_count(before: Dims, after: Dims) -> bool:
    """Return True where both dims have the same number of elements in every run."""
    try:
        return product(before) == product(after)
    except ArithmeticError:
        return False


def _added(few: Dims, many: Dims) -> list[int] | None:
    """Return the first axes of size 1 that make the one dims of the other; None where there are none. The
    forms of shapes.py choose the same ones."""
    axes, rest = [], list(few)
    for axis, size in enumerate(many):
        one = size.constant == 1
        if rest and rest[0] == size and not (one and len(many) - axis > len(rest)):
            rest.pop(0)
        elif one:
            axes.append(axis)
        else:
            return None
    return axes if axes and not rest else None


def _target(before: Dims, after: Dims) -> list[int] | None:
    """Return the target of a Reshape as numbers, with 0 for a size that stays and -1 for one other. From 0,
    inference knows that it is the same."""
    target: list[int] = []
    for k, size in enumerate(after):
        if size.constant is not None:
            target.append(size.constant)
        elif k < len(before) and before[k] == size:
            target.append(0)
        else:
            target.append(-1)
    fixed = [k for k, size in enumerate(after) if size.constant == 0]
    return None if target.count(-1) > 1 or fixed else target
