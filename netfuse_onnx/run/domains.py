"""Which integers a graph input takes, read off what consumes it: the rows of the table that a Gather
looks up, the depth of a one-hot, the constants it is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Node, ValueType

FOLLOWED = frozenset(
    {"Cast", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Expand", "Identity", "Slice", "Tile"}
    | {"Concat", "Split", "Where", "Clip", "Max", "Min", "Pad"}
)
"""Operators whose output holds elements of their first input; of any, for those in MIXING."""
MIXING = frozenset({"Concat", "Where", "Max", "Min"})
STEERS = frozenset({"Reshape", "Expand", "ConstantOfShape", "Range", "Tile", "TopK", "Resize", "Slice"})
TABLES = {"Gather": (1, 0), "GatherElements": (1, 0), "OneHot": (0, 1), "EmbedLayerNormalization": (0, 2)}
"""Operator -> (input that holds indices, input that they index)."""
ALPHABET = 4096
"""Most elements of a constant that is read, such as the classes of a one-hot."""
CHOICES = 8
"""Constants that an input is compared with: up to so many are drawn from, more are taken for a range."""


@dataclass(frozen=True, slots=True)
class Accepts:
    """Integers within [low, high), or one of `values`; a mask holds zeros and ones."""

    low: int = 0
    high: int | None = None
    values: tuple[int, ...] = ()
    mask: bool = False


class Domains:
    """The domains of the inputs of a family, by the first source's names."""

    def __init__(self, family: Correspondence) -> None:
        self.graph = family.graph
        self.weights = family.weights
        self.made = {out: node for node in self.graph.nodes for out in node.outputs}
        self.readers: dict[str, list[tuple[Node, int]]] = {}
        for node in self.graph.nodes:
            for i, value in enumerate(node.inputs):
                self.readers.setdefault(value, []).append((node, i))

    def of(self, name: str) -> Accepts:
        """Follow an input through what keeps its elements to the operators that bound them."""
        if "mask" in name.lower():
            return Accepts(mask=True)
        low, high, values = int("len" in name.lower()), math.inf, set[int]()
        queue, seen = [name], {name}
        while queue:
            for node, i in self.readers.get(queue.pop(), ()):
                high = min(high, self._rows(node, i))
                if node.op == "Equal":
                    values |= self._constants(node.inputs[1 - i])
                if i > 0 and node.op in STEERS:
                    low = 1
                if node.op in FOLLOWED and (i == 0 or node.op in MIXING):
                    fresh = [out for out in node.outputs if out not in seen]
                    queue += fresh
                    seen.update(fresh)
        if len(values) > CHOICES:
            high = min(high, max(values) + 1)
        if high < math.inf:
            return Accepts(low, max(1, int(high)))
        return Accepts(low, None, (*sorted(values), max(values) + 1) if values else ())

    def _rows(self, node: Node, i: int) -> float:
        """How many rows the table has that input `i` of the node indexes; infinity when it indexes none."""
        if node.op == "EmbedLayerNormalization" and i == 1:
            index, table = 1, 4
        elif node.op in TABLES:
            index, table = TABLES[node.op]
        else:
            return math.inf
        if i != index or table >= len(node.inputs):
            return math.inf
        if node.op == "OneHot":
            return max(self._constants(node.inputs[table]), default=math.inf)
        held = self.weights.get(node.inputs[table])
        dims = held[0].shape if held else self.graph.types.get(node.inputs[table], ValueType()).dims
        axis = int(node.attrs.get("axis", 0))
        if dims is None or not -len(dims) <= axis < len(dims):
            return math.inf
        size = dims[axis]
        return size if isinstance(size, int) else math.inf

    def _constants(self, name: str) -> set[int]:
        """The elements of an integer constant, seen through reshaping and broadcasting."""
        while name in self.made and self.made[name].op in FOLLOWED - MIXING:
            name = self.made[name].inputs[0]
        found = set[int]()
        for weight in self.weights.get(name, ()):
            if math.prod(weight.shape) <= ALPHABET:
                array = weights.array(weight)
                if array.dtype.kind in "iuf":
                    found |= {int(v) for v in array.reshape(-1) if abs(float(v)) < 2**31}
        return found
