"""The cost of a plan on a GPU, in microseconds.

A node costs its launches (launches.py) on the card at hand (card.py). A node for which ONNX Runtime has no
CUDA kernel costs its copies to the host and back. ONNX Runtime itself puts the arithmetic of shapes on the
host, where the shapes are, so that nothing is copied for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from netfuse_onnx.emit.counting import Counted, Step
from netfuse_onnx.layouts import Hop
from netfuse_onnx.ops.kernels import runs_on_cuda
from netfuse_onnx.ops.kinds import SHAPE_TYPES
from netfuse_onnx.plan.absorbed import absorbed
from netfuse_onnx.plan.account import Account, is_view
from netfuse_onnx.plan.card import Card
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.launches import TRANSPOSED, Launch, launches, transfers
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.rules import Site
from netfuse_onnx.storage.tensors import BITS
from netfuse_onnx.types import Correspondence, Dim, Lowering, ValueType, Weight

VIEW = 0.1
"""A node that launches nothing. The host passes it while the device works."""
SHAPE_SIZE = 16
"""Elements of a vector that may be a shape, or the axes or bounds of one."""


class Device(Timed):
    """Prices by the constants of a card."""

    provider = Card.provider

    def __init__(self, models: int, card: Card, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(models, sizes)
        self.card = card
        self._declared: Mapping[str, ValueType] = {}
        self._absorbed: frozenset[str] = frozenset()

    def _runs(self, step: Step) -> bool:
        """A DequantizeLinear of weights stays, too: gaps.DEQUANTIZE_STAYS. On the CPU it is fused."""
        return step.op == "DequantizeLinear" or super()._runs(step)

    def priced(self, corr: Correspondence) -> Correspondence:
        self._declared = corr.graph.types
        self._absorbed = absorbed(corr.graph)
        return super().priced(corr)

    def lowering(self, offer: Lowering, sized: Site) -> float:
        if sized.node.outputs[0] in self._absorbed:
            return VIEW * self.accounts.of(offer).times
        return super().lowering(offer, sized)

    def emitted_dims(self, name: str, value: ValueType) -> tuple[Dim, ...] | None:
        """A Transpose past a batch of 1 that the file leaves open is emitted, and copies."""
        declared = self._declared.get(name, value)
        return declared.dims if declared.rank == value.rank else value.dims

    def _step(self, step: Step, shapes: Shapes) -> float:
        if is_view(step) or _of_shapes(step, shapes):
            return VIEW
        if self._has_kernel(step, shapes):
            return sum(map(self.card.microseconds, launches(step, shapes)))
        copied = list(transfers(step, shapes))
        return sum(map(self.card.microseconds, copied)) + sum(x.moved for x in copied) / self.card.host

    def _has_kernel(self, step: Step, shapes: Shapes) -> bool:
        key = f"{step.domain}.{step.op}".removeprefix(".")
        inputs, outputs = ([*map(shapes.dtype, some)] for some in (step.inputs, step.outputs))
        return runs_on_cuda(key, shapes.site.opsets.get(step.domain, 1), inputs, outputs)

    def repeated(self, weight: Weight) -> float:
        """ONNX Runtime repeats it when it loads the file. The nodes that read the copies pay for reading."""
        return VIEW

    def small(self, account: Account) -> float:
        return account.launches * self.card.microseconds(Launch(0)) + account.views * VIEW

    def hop(self, hop: Hop, dims: Sequence[Dim], dtype: int = 0) -> float:
        counts, size = hop.counts(self.models, self.provider), BITS.get(dtype, 32) / 8
        moved = 2 * self.models * size * math.prod(self.sizes(dims))
        each = Launch(counts.copies * moved / max(1, counts.launches))
        if counts.transposes:
            each = Launch(counts.transposes * moved / max(1, counts.launches), TRANSPOSED)
        return counts.launches * self.card.microseconds(each) + counts.views * VIEW


def _of_shapes(step: Step, shapes: Shapes) -> bool:
    """True for a node that reads and writes nothing but small vectors of integers, as shapes are."""

    def small(tensor: Counted | None) -> bool:
        shape = shapes.of(tensor)
        return tensor is None or (
            shapes.dtype(tensor) in SHAPE_TYPES and len(shape) <= 1 and math.prod(shape) <= SHAPE_SIZE
        )

    return all(map(small, (*step.inputs, *step.outputs)))
