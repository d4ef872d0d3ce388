"""Convolutions with their bias, a sum and Relu as one operator, for targets where that is one launch.

ONNX Runtime's CUDA provider launches the product, the bias, the sum and Relu one by one, and no longer fuses
them when it loads a file. Its FusedConv does all of it in one launch, relu(conv(x, w) + b + z), and computes
the same on the CPU. It is for float32, and Relu is the only activation that it takes on CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnx import TensorProto

from netfuse_onnx.dims import same_dim, static_size
from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.rewrite.nodes import with_nodes
from netfuse_onnx.types import Correspondence, Node, Weight

IMAGE_RANK = 4
"""The rank of images, [batch, channels, height, width]. FusedConv on CUDA adds to nothing else."""


def fuse_convolutions(corr: Correspondence) -> Correspondence:
    """The correspondence with a FusedConv for each Conv, or Conv and Add, before a Relu that alone reads it.
    It bears the name of the Conv."""
    fusing = _Fusing(corr)
    fresh, dropped = dict[int, Node](), set[int]()
    for i, node in enumerate(corr.graph.nodes):
        if node.key != "Relu" or i in corr.attrs:
            continue
        for conv, summed in fusing.sums_before(node):
            if not dropped & {conv, *summed}:
                fresh[i] = fusing.fused(conv, summed, node)
                dropped |= {conv, *summed}
                break
    return with_nodes(corr, fresh, dropped, fusing.weights) if fresh else corr


class _Fusing:
    """Finds the nodes that one FusedConv replaces."""

    def __init__(self, corr: Correspondence) -> None:
        self.corr, self.nodes = corr, corr.graph.nodes
        self.weights = dict(corr.weights)
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.outputs if name}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.reads:
                self.readers.setdefault(name, []).append(i)

    def sums_before(self, relu: Node) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the nodes that a Relu could be fused with: a Conv, and the Add behind it, if there is one."""
        name = relu.inputs[0]
        conv, total = self._only_for_one(name, "Conv"), self._only_for_one(name, "Add")
        if conv is not None and self._fits(self.nodes[conv]):
            yield conv, ()
        for one in self.nodes[total].inputs if total is not None else ():
            conv = self._only_for_one(one, "Conv")
            if conv is not None and total is not None and self._adds(conv, total):
                yield conv, (total,)

    def fused(self, conv: int, summed: tuple[int, ...], relu: Node) -> Node:
        """Return the one operator for a Conv, the Add behind it, if there is one, and Relu."""
        node = self.nodes[conv]
        inputs = [*node.inputs]
        for i in summed:
            (other,) = (name for name in self.nodes[i].inputs if name != node.outputs[0])
            inputs = [*inputs[:2], self._bias(node), other]
        attrs = {**node.attrs, "activation": b"Relu"}
        return replace(
            node, op="FusedConv", domain=MICROSOFT, inputs=tuple(inputs), outputs=relu.outputs, attrs=attrs
        )

    def _only_for_one(self, name: str, op: str) -> int | None:
        """Return the node that makes a value, if it is of this operator and one node alone reads the value,
        once."""
        i = self.producers.get(name)
        inner = len(self.readers.get(name, ())) == 1 and name not in self.corr.graph.outputs
        return i if i is not None and inner and self.nodes[i].key == op and i not in self.corr.attrs else None

    def _fits(self, conv: Node) -> bool:
        return self.corr.type_of(conv.inputs[0]).dtype == TensorProto.FLOAT

    def _adds(self, conv: int, total: int) -> bool:
        """True where FusedConv does what the Add does: the shapes of its operands are known to be equal.

        The kernel for CUDA computes a border that is wider on one side in a larger image, which has not the
        shape of what is added, and it reads the bias even where there is none."""
        node, operands = self.nodes[conv], self.nodes[total].inputs
        shapes = [self.corr.type_of(name).dims or () for name in operands]
        if not self._fits(node) or not self.corr.ragged.isdisjoint(operands):
            return False
        if any(len(dims) != IMAGE_RANK for dims in shapes) or not isinstance(shapes[0][1], int):
            return False
        same = all(map(same_dim, *shapes))
        pads = list(node.attrs.get("pads") or [0] * 4)
        even = pads[: len(pads) // 2] == pads[len(pads) // 2 :]
        return same and even and node.attrs.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")

    def _bias(self, conv: Node) -> str:
        """The bias of a Conv, of zeros where it has none."""
        if len(conv.inputs) > 2 and conv.inputs[2]:
            return conv.inputs[2]
        filters = static_size((self.corr.type_of(conv.outputs[0]).dims or ())[1])
        name = f"{conv.outputs[0]}/zeros"
        while name in self.weights or name in self.producers or name in self.corr.graph.inputs:
            name += "-"
        self.weights[name] = (Weight(TensorProto.FLOAT, (filters,), bytes(4 * filters)),)
        return name
