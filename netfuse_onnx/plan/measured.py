"""The cost of a plan on a target, in microseconds: launches, bytes and arithmetic at measured speeds.

A node costs its launch, and either its products, at the speed of the kernel that does them, or the bytes that
it reads and writes. Sizes that the file leaves open are bound before (sized.py); what inference
could not trace to an input is taken for as large as the largest of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from netfuse_onnx.emit.counting import Step
from netfuse_onnx.layouts import Hop
from netfuse_onnx.plan.account import Account, is_view
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.sized import sized
from netfuse_onnx.plan.targets import Target
from netfuse_onnx.plan.work import work
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Correspondence, Dim, Lowering, Weight

ITEM = 4  # bytes of an element, where it matters little which


class Measured(Cost):
    """Prices by what was measured on a target."""

    tuned = True

    def __init__(self, models: int, target: Target, sizes: Mapping[str, int] | None = None) -> None:
        self.target, self.provider = target, target.provider
        super().__init__(models)
        self.given = dict(sizes or {})
        self.largest = max(self.given.values(), default=1)
        self._prices: dict[tuple[Any, ...], float] = {}
        self._lowerings: dict[tuple[int, int], tuple[Lowering, Site, float]] = {}

    def sizes(self, dims: Sequence[Dim]) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else self.given.get(dim or "", self.largest) for dim in dims)

    def priced(self, corr: Correspondence) -> Correspondence:
        return sized(corr, self.given)

    def lowering(self, offer: Lowering, sized: Site) -> float:
        """The microseconds of a node, kept: the plans that a prediction compares ask for them again."""
        key = id(offer), id(sized)
        if key not in self._lowerings:
            self._lowerings[key] = offer, sized, super().lowering(offer, sized)
        return self._lowerings[key][2]

    def _account(self, account: Account, sized: Site) -> float:
        types = (account, *((kind.dtype, kind.dims) for kind in (*sized.inputs, *sized.outputs)))
        if types not in self._prices:
            shapes = Shapes(account, sized, self.sizes)
            self._prices[types] = account.times * sum(self._step(step, shapes) for step in account.steps)
        return self._prices[types]

    def _step(self, step: Step, shapes: Shapes) -> float:
        """One node that was emitted."""
        target = self.target
        if step.at_load:
            return 0.0
        if is_view(step):
            return target.view
        inputs, outputs = (tuple(map(shapes.of, some)) for some in (step.inputs, step.outputs))
        products = work(step, inputs, outputs[0])
        if products is not None:
            kernel = target.kernels[products.kernel]
            return target.launch + kernel.microseconds(products.count, products.m, products.n, products.k)
        moved = ITEM * sum(math.prod(shape) for shape in (*inputs, *outputs) if shape)
        return target.launch + moved / (target.transposed if step.op == "Transpose" else target.streamed)

    def repeated(self, weight: Weight) -> float:
        """ONNX Runtime repeats it when it loads the file: a call has no launch more, but reads each copy."""
        return self.models * ITEM * math.prod(weight.shape) / self.target.streamed

    def hop(self, hop: Hop, dims: Sequence[Dim]) -> float:
        target, counts = self.target, hop.counts(self.models, self.provider)
        moved = 2 * self.models * ITEM * math.prod(self.sizes(dims))
        return (
            (counts.launches + counts.reorders) * target.launch
            + counts.views * target.view
            + counts.parts * target.part
            + (counts.copies + counts.reorders) * moved / target.copied
            + counts.transposes * moved / target.transposed
        )
