"""The cost of a plan on a CPU, in microseconds: launches, bytes and arithmetic at measured speeds.

A node costs its launch, and either its products, at the speed of the kernel that does them, or the bytes that
it reads and writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.layouts import Hop
from netfuse_onnx.plan.account import Account, is_view
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.targets import Target
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.plan.work import recurrence, work
from netfuse_onnx.types import Dim, Weight

ITEM = 4  # bytes of an element, where it matters little which


class Measured(Timed):
    """Prices by what was measured on a CPU."""

    provider = Target.provider

    def __init__(self, models: int, target: Target, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(models, sizes)
        self.target = target

    def _step(self, step: Step, shapes: Shapes) -> float:
        target = self.target
        if is_view(step):
            return target.view
        inputs, outputs = (tuple(map(shapes.of, some)) for some in (step.inputs, step.outputs))
        products = work(step, inputs, outputs[0]) or recurrence(step, inputs)
        if products is not None:
            kernel = target.kernels[products.kernel]
            return target.launch + kernel.microseconds(products.count, products.m, products.n, products.k)
        moved = ITEM * sum(math.prod(shape) for shape in (*inputs, *outputs) if shape)
        return target.launch + moved / (target.transposed if step.op == "Transpose" else target.streamed)

    def repeated(self, weight: Weight) -> float:
        """ONNX Runtime repeats it when it loads the file: a call has no launch more, but reads each copy."""
        return self.models * ITEM * math.prod(weight.shape) / self.target.streamed

    def small(self, account: Account) -> float:
        return self.target.launch * account.launches + self.target.view * account.views

    def hop(self, hop: Hop, dims: Sequence[Dim], dtype: int = 0) -> float:
        target, counts = self.target, hop.counts(self.models, self.provider)
        moved = 2 * self.models * ITEM * math.prod(self.sizes(dims))
        return (
            (counts.launches + counts.reorders) * target.launch
            + counts.views * target.view
            + counts.parts * target.part
            + (counts.copies + counts.reorders) * moved / target.copied
            + counts.transposes * moved / target.transposed
        )
