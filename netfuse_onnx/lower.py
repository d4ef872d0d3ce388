"""lower: Plan -> Merged, an interpreter loop over the first source's nodes.

For each node it fetches the inputs in the layouts that the plan took, converting where needed, and lets
the rule's body emit. Conversions are cached per (value, layout). The loop follows the source's order, so
the result is sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from netfuse_onnx import boundary
from netfuse_onnx import plan as planning
from netfuse_onnx.bodies import bind
from netfuse_onnx.convert import hop
from netfuse_onnx.emit import Emitter, Held, Tensor
from netfuse_onnx.errors import InternalError
from netfuse_onnx.finish import export
from netfuse_onnx.layouts import route
from netfuse_onnx.types import (
    SHARED,
    Became,
    Correspondence,
    Layout,
    Lowering,
    Merged,
    Node,
    Plan,
    ValueType,
)


def lower(
    corr: Correspondence, plan: Plan, *, io: str = "separate", share: frozenset[str] = frozenset()
) -> Merged:
    """Emit the merged graph. `io` and `share` must be those that the plan was made for."""
    return _Lowerer(corr, plan, boundary.Boundary(corr, io, share)).run()


class _Lowerer:
    def __init__(self, corr: Correspondence, plan: Plan, edge: boundary.Boundary) -> None:
        self.corr = corr
        self.plan = plan
        self.edge = edge
        graph = corr.graph
        self.emit = Emitter(graph.name, corr.models, corr.opsets.get("", 1), corr.weights, edge.names())
        self.held: dict[tuple[str, Layout], Held] = {}
        self.made: dict[str, Layout] = {}
        self.conversions: list[dict[str, Any]] = []

    def run(self) -> Merged:
        self.edge.feed(self.emit, self._keep)
        for index, (node, lowering) in enumerate(
            zip(self.corr.graph.nodes, self.plan.lowerings, strict=True)
        ):
            self.emit.scope = node.name or f"{node.op}_{index}"
            self._check(node, lowering)
            for k, (name, held) in enumerate(
                zip(node.outputs, self._node(index, node, lowering), strict=True)
            ):
                if name:
                    self._claim(held, name)
                    self._keep(name, lowering.gives[k], held)
        core = len(self.emit.graph.nodes)
        self.edge.drain(self.emit, self.fetch, self.made)
        return export(self.corr, self.plan, self.emit, self.edge, self.conversions, core)

    def _check(self, node: Node, lowering: Lowering) -> None:
        if len(lowering.gives) != len(node.outputs):
            raise InternalError(
                f"rule {lowering.rule!r} gives {len(lowering.gives)} layouts for node {node.name!r}"
            )

    # ------------------------------------------------------------------ values

    def _keep(self, name: str, layout: Layout, held: Held) -> None:
        self.made[name] = layout
        self.held[name, layout] = held

    def _claim(self, held: Held, name: str) -> None:
        if isinstance(held, tuple):
            for model, tensor in zip(self.corr.names, held, strict=True):
                self.emit.claim(tensor, f"{model}/{name}")
        else:
            self.emit.claim(held, name)

    def fetch(self, name: str, layout: Layout) -> Held:
        """A value in a layout, converted once however many ask."""
        if name in self.corr.weights:
            return self.emit.weight(name, layout)
        if (name, layout) not in self.held:
            self._convert(name, layout)
        return self.held[name, layout]

    def _convert(self, name: str, layout: Layout) -> None:
        dims = self.corr.graph.types.get(name, ValueType()).dims or ()
        at, scope, before = self.made[name], self.emit.scope, len(self.emit.graph.nodes)
        for step in route(at, layout, dims):
            if (name, step) not in self.held:
                self.emit.scope = f"{name}/{step}"
                self.held[name, step] = hop(self.emit, self.held[name, at], at, step, dims)
            at = step
        self.emit.scope = scope
        count = len(self.emit.graph.nodes) - before
        if count:
            self.conversions.append(
                {"value": name, "from": str(self.made[name]), "to": str(layout), "nodes": count}
            )

    # ------------------------------------------------------------------ nodes

    def _node(self, index: int, node: Node, lowering: Lowering) -> Sequence[Held]:
        reads = zip(node.reads, lowering.takes, strict=True)
        ins = [self.fetch(name, take) if name and take else None for name, take in reads]
        if lowering.became is Became.SHARED:
            return self._once(node, node.attrs, ins)
        if lowering.became is Became.REPLICATED:
            return self._replicate(index, node, ins)
        opset = self.corr.opsets.get("", 1)
        mapped = {v for v, take in zip(node.inputs, lowering.takes, strict=True) if self._is_mapped(v)}
        result = lowering.option.body(planning.site(self.corr, mapped, node, opset), ins, self.emit)
        return [result] if isinstance(result, gs.Tensor | tuple) else list(result)

    def _is_mapped(self, name: str) -> bool:
        parts = self.corr.weights.get(name)
        return len(parts) > 1 if parts else bool(name) and self.made[name] != SHARED

    def _replicate(self, index: int, node: Node, ins: Sequence[Held | None]) -> Sequence[Held]:
        """Once per model, on that model's inputs, attributes and captured values."""
        per_model = []
        scope = self.emit.scope
        for m, model in enumerate(self.corr.names):
            self.emit.scope = f"{model}/{scope}"
            attrs = self.corr.attrs[index][m] if index in self.corr.attrs else node.attrs
            mine = [x[m] if isinstance(x, tuple) else x for x in ins]
            per_model.append(self._once(node, attrs, mine))
        self.emit.scope = scope
        return [tuple(outs) for outs in zip(*per_model, strict=True)]

    def _once(self, node: Node, attrs: Mapping[str, Any], ins: Sequence[Any]) -> list[Tensor]:
        count = len(node.inputs)
        if node.captured:
            attrs = bind(attrs, self.emit)
        outs = [name != "" for name in node.outputs]
        return self.emit.node(
            node.op,
            ins[:count],
            attrs,
            outs=outs,
            domain=node.domain,
            captured=ins[count:],
            captured_names=node.captured,
        )
