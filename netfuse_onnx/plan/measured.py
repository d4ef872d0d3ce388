"""What a plan costs on a target, in microseconds: launches, bytes and arithmetic at measured speeds.

An operator costs its launches, and either its products, at the speed of the kernel that does them, or the
bytes that it reads and writes. Sizes that the file leaves open are bound before (sized.py); what inference
could not trace to an input is taken for as large as the largest of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from netfuse_onnx.layouts import Hop
from netfuse_onnx.ops import traits
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.sized import sized
from netfuse_onnx.plan.targets import Target
from netfuse_onnx.plan.work import work
from netfuse_onnx.rules import Option, Site
from netfuse_onnx.types import Became, Correspondence, Dim, Lowering, ValueType, Weight

ITEM = 4  # bytes of an element, where it matters little which


class Measured(Cost):
    """Prices by what was measured on a target."""

    tuned = True

    def __init__(self, models: int, target: Target, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(models)
        self.target = target
        self.given = dict(sizes or {})
        self.largest = max(self.given.values(), default=1)

    def sizes(self, dims: Sequence[Dim]) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else self.given.get(dim or "", self.largest) for dim in dims)

    def priced(self, corr: Correspondence) -> Correspondence:
        return sized(corr, self.given)

    def nbytes(self, kind: ValueType) -> int:
        return ITEM * math.prod(self.sizes(kind.dims or ()))

    def lowering(self, offer: Lowering, site: Site) -> float:
        if offer.became is Became.REPLICATED:
            return self.models * (self.target.launch + self._run(site, None))
        if offer.became is Became.SHARED:
            return self.target.launch + self._run(site, None)
        nodes = float(offer.option.nodes) if offer.option else 1.0
        if traits.has_bodies(site.node):  # the price of the plan inside
            return nodes
        return nodes * (self.target.view if nodes < 1.0 else self.target.launch) + self._run(site, offer)

    def _run(self, site: Site, offer: Lowering | None) -> float:
        """All but the launches."""
        target = self.target
        found = work(site, offer, self.sizes)
        if found is not None:
            taken = target.kernels[found.kernel].microseconds(found.count, found.m, found.n, found.k)
            option = offer.option if offer else None
            return taken + (self._transposes(site, option) if isinstance(option, Option) else 0.0)
        if traits.of(site.node.key).view:
            return 0.0
        times = 1 if offer is None else self.models
        moved = sum(self.nbytes(kind) for kind in (*site.inputs, *site.outputs) if kind.dims)
        return times * moved / (target.transposed if site.op == "Transpose" else target.streamed)

    def _transposes(self, site: Site, option: Option) -> float:
        """Of what an option transposes on the way; stored weights are written that way."""
        ports = (*site.inputs, *site.outputs)
        mapped, stored = (*site.mapped, True), (*site.weight, False)
        moved = sum(
            2 * self.nbytes(ports[i]) * (self.models if mapped[i] else 1)
            for i in option.transposes
            if not stored[i]
        )
        return moved / self.target.transposed

    def repeated(self, weight: Weight) -> float:
        """ONNX Runtime repeats it when it loads the file: a call has no launch more, but reads each copy."""
        return self.models * ITEM * math.prod(weight.shape) / self.target.streamed

    def hop(self, hop: Hop, dims: Sequence[Dim]) -> float:
        target, counts = self.target, hop.counts(self.models)
        moved = 2 * self.models * ITEM * math.prod(self.sizes(dims))
        return (
            (counts.launches + counts.reorders) * target.launch
            + counts.views * target.view
            + counts.parts * target.part
            + (counts.copies + counts.reorders) * moved / target.copied
            + counts.transposes * moved / target.transposed
        )
