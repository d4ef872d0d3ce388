"""A cost that counts multiply-adds in the place of microseconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.plan.work import recurrence, work
from netfuse_onnx.types import Dim


class MultiplyAdds(Timed):
    """Counts the multiply-adds of products, convolutions and recurrences in the place of microseconds."""

    def _step(self, step: Step, shapes: Shapes) -> float:
        inputs, output = tuple(map(shapes.of, step.inputs)), shapes.of(step.outputs[0])
        products = work(step, inputs, output) or recurrence(step, inputs)
        return math.prod((products.count, products.m, products.n, products.k)) if products else 0.0


class OnWeights(MultiplyAdds):
    """Counts the multiply-adds of products with weights alone. The sizes of others are often not known, and
    taken for far too large they would hide all the rest."""

    def sizes(self, dims: Sequence[Dim]) -> tuple[int, ...]:
        """Return sizes, in which an unknown first one of several is a batch of 1 (sized.py)."""
        batch = 1 if len(dims) > 2 else self.largest
        known = self.given
        return tuple(
            dim if isinstance(dim, int) else known.get(dim or "", self.largest if axis else batch)
            for axis, dim in enumerate(dims)
        )

    def _step(self, step: Step, shapes: Shapes) -> float:
        stored = any(each is not None and each.stored for each in step.inputs)
        return super()._step(step, shapes) if stored else 0.0
