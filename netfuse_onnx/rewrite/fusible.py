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
from netfuse_onnx.storage.weights import array
from netfuse_onnx.types import Correspondence, Node, ValueType, Weight

IMAGE_RANK = 4
"""The rank of images, [batch, channels, height, width]. FusedConv on CUDA adds to nothing else."""


def fuse_convolutions(corr: Correspondence) -> Correspondence:
    """The correspondence with a FusedConv for each Conv, or Conv and Add, that a Relu alone reads, or a Clip
    from 0 on. The Clip stays behind it. A FusedConv bears the name of its Conv."""
    fusing = _Fusing(corr)
    for i, node in enumerate(corr.graph.nodes):
        if i not in corr.attrs and (node.key == "Relu" or (node.key == "Clip" and fusing.is_positive(node))):
            fusing.fuse(i)
    return fusing.result()


class _Fusing:
    """Replaces the nodes of one family."""

    def __init__(self, corr: Correspondence) -> None:
        self.corr, self.nodes = corr, corr.graph.nodes
        self.weights, self.types = dict(corr.weights), dict(corr.graph.types)
        self.fresh, self.dropped = dict[int, Node](), set[int]()
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.outputs if name}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.reads:
                self.readers.setdefault(name, []).append(i)

    def result(self) -> Correspondence:
        corr = replace(self.corr, graph=replace(self.corr.graph, types=self.types))
        return with_nodes(corr, self.fresh, self.dropped, self.weights) if self.fresh else self.corr

    def is_positive(self, clip: Node) -> bool:
        """True where the lower bound of a Clip is stored and no less than 0, so that Relu before it changes
        nothing."""
        if "min" in clip.attrs:
            return bool(clip.attrs["min"] >= 0)
        bounds = self.weights.get(clip.inputs[1], ()) if len(clip.inputs) > 1 else ()
        return bool(bounds) and all(array(bound) >= 0 for bound in bounds)

    def fuse(self, reader: int) -> None:
        """Fuse a Relu with what it reads, or what a Clip reads with a Relu of its own."""
        conv, total = next(self._sums(self.nodes[reader].inputs[0]), (None, None))
        if conv is None:
            return
        node, stays = self.nodes[conv], self.nodes[reader].op == "Clip"
        inputs = node.inputs
        if total is not None:
            (other,) = (name for name in self.nodes[total].inputs if name != node.outputs[0])
            inputs = (*inputs[:2], self._bias(conv, total, other), other)
        parts = [conv, *([] if total is None else [total]), *([] if stays else [reader])]
        attrs = {**node.attrs, "activation": b"Relu"}
        outputs = self.nodes[parts[-1]].outputs
        self.dropped.update(parts)
        self.fresh[parts[-1]] = replace(
            node, op="FusedConv", domain=MICROSOFT, inputs=inputs, outputs=outputs, attrs=attrs
        )

    # ------------------------------------------------------------------ patterns

    def _sums(self, name: str) -> Iterator[tuple[int, int | None]]:
        """Yield a Conv, and the Add behind it, if there is one, that make a value and could be fused."""
        conv, total = self._for_one(name, "Conv"), self._for_one(name, "Add")
        if conv is not None and self._fits(conv):
            yield conv, None
        for one in self.nodes[total].inputs if total is not None else ():
            conv = self._for_one(one, "Conv")
            if conv is not None and total is not None and self._fits(conv) and self._adds(total):
                yield conv, total

    def _for_one(self, name: str, op: str) -> int | None:
        """Return the node that makes a value, if it is of this operator and one node alone reads the value,
        once."""
        i = self.producers.get(name)
        inner = len(self.readers.get(name, ())) == 1 and name not in self.corr.graph.outputs
        return i if i is not None and inner and self.nodes[i].key == op and i not in self.corr.attrs else None

    def _fits(self, conv: int) -> bool:
        """True for a convolution of floats whose border is even: where it is wider on one side, the kernel
        for CUDA computes a larger image and cuts out the result with one more launch."""
        node = self.nodes[conv]
        pads = list(node.attrs.get("pads") or ())
        even = pads[: len(pads) // 2] == pads[len(pads) // 2 :]
        even = even and node.attrs.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        return even and self.corr.type_of(node.inputs[0]).dtype == TensorProto.FLOAT

    def _adds(self, total: int) -> bool:
        """True where FusedConv does what an Add does: the shapes of its operands are known to be equal."""
        operands = self.nodes[total].inputs
        shapes = [self.corr.type_of(name).dims or () for name in operands]
        images = all(len(dims) == IMAGE_RANK for dims in shapes) and self.corr.ragged.isdisjoint(operands)
        return images and all(map(same_dim, *shapes)) and isinstance(shapes[0][1], int)

    # ------------------------------------------------------------------ biases

    def _bias(self, conv: int, total: int, other: str) -> str:
        """The bias of a Conv that does a sum. That of another Conv, which makes the other operand, joins it:
        the sum of two stored biases is computed when a session loads. Where there is none it is zeros, since
        the kernel for CUDA reads the bias before a sum without asking for it."""
        own, added = self._stored_bias(conv), self._for_one(other, "Conv")
        moved = self._stored_bias(added) if added is not None else None
        if added is not None and moved is not None and (own or not _has_bias(self.nodes[conv])):
            self.fresh[added] = replace(self.nodes[added], inputs=self.nodes[added].inputs[:2])
            if own is None:
                return moved
            name = self._name(f"{self.nodes[conv].outputs[0]}/biases")
            self.types[name] = ValueType(TensorProto.FLOAT, self.weights[own][0].shape)
            self.fresh[conv] = replace(self.nodes[total], inputs=(own, moved), outputs=(name,))
            return name
        if _has_bias(self.nodes[conv]):
            return self.nodes[conv].inputs[2]
        filters = static_size((self.corr.type_of(self.nodes[conv].outputs[0]).dims or ())[1])
        name = self._name(f"{self.nodes[conv].outputs[0]}/zeros")
        self.weights[name] = (Weight(TensorProto.FLOAT, (filters,), bytes(4 * filters)),)
        return name

    def _stored_bias(self, conv: int) -> str | None:
        node = self.nodes[conv]
        return node.inputs[2] if _has_bias(node) and node.inputs[2] in self.weights else None

    def _name(self, name: str) -> str:
        """The name, or the nearest that nothing carries yet."""
        while name in self.weights or name in self.types or name in self.producers:
            name += "-"
        return name


def _has_bias(conv: Node) -> bool:
    return len(conv.inputs) > 2 and conv.inputs[2] != ""
