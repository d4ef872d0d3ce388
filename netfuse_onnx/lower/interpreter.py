"""lower: Plan -> Merged, an interpreter loop over the first source's nodes.

For each node it fetches the inputs in the layouts that the plan took, converting where needed, and lets
the rule's body emit. Conversions are cached per (value, layout). The loop follows the source's order, so
the result is sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from netfuse_onnx import edges
from netfuse_onnx.emit.bodies import bind, declare
from netfuse_onnx.emit.chosen import home
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.errors import InternalError
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED, Layout, route
from netfuse_onnx.layouts.join import join
from netfuse_onnx.lower import boundary
from netfuse_onnx.lower.emitted.passes import rewrite_emitted
from netfuse_onnx.lower.finish import export
from netfuse_onnx.lower.routed import Routed
from netfuse_onnx.lower.tails import emit_tails
from netfuse_onnx.lowered import Conversion, Merged
from netfuse_onnx.ops import kinds, traits
from netfuse_onnx.plan.blame import blamed
from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.types import Became, Correspondence, Lowering, Node, Plan, ValueType


def lower(
    corr: Correspondence, plan: Plan, *, io: str = "separate", share: frozenset[str] = frozenset()
) -> Merged:
    """Emit the merged graph. `io` and `share` must be those that the plan was made for.

    A value that is joined twice is compared once. Where nothing reads that comparison after all, because a
    rule or a body needs less of a value than it reads, every join makes its own.
    """
    merged, alive = _lowered(corr, plan, io, share, trusting=True)
    return merged if alive else _lowered(corr, plan, io, share, trusting=False)[0]


def _lowered(
    corr: Correspondence, plan: Plan, io: str, share: frozenset[str], *, trusting: bool
) -> tuple[Merged, bool]:
    """The merged graph, and whether all comparisons of shapes that were trusted are still part of it."""
    kind = Routed if edges.is_routed(io) else boundary.Boundary
    edge = kind(corr, io, share, plan.ragged)
    opset = corr.opsets.get("", 1)
    emit = Emitter(corr.graph.name, corr.models, opset, corr.every_weight, edge.names(), plan.provider)
    conversions: list[Conversion] = []
    lowerer = _Lowerer(corr, plan, emit, conversions, trusting=trusting)
    edge.feed(emit, lowerer.keep)
    lowerer.run()
    tails = emit_tails(corr, emit, lowerer.fetch, lowerer.once)
    core = len(emit.graph.nodes)
    lowerer.edge = True
    if tails:
        edge.drain_tails(emit, tails)
    else:
        edge.drain(emit, lowerer.fetch, lowerer.made)
    drained = {id(node) for node in emit.graph.nodes[core:]}
    rewrite_emitted(emit)
    merged = export(corr, plan, emit, edge, conversions, drained)
    left = {id(node) for node in emit.graph.nodes}
    return merged, all(id(node) in left for node in lowerer.guards)


class _Lowerer:
    """Emits the nodes of one graph: the main graph, or the body of a control-flow operator."""

    def __init__(
        self,
        corr: Correspondence,
        plan: Plan,
        emit: Emitter,
        conversions: list[Conversion],
        *,
        trusting: bool = False,
    ) -> None:
        self.corr = corr
        self.plan = plan
        self.emit = emit
        self.conversions = conversions
        self.held: dict[tuple[str, Layout], Held] = {}
        self.made: dict[str, Layout] = {}
        self.uneven: set[str] = set()
        """Values held per model whose shapes nothing has compared yet."""
        self.trusting = trusting
        self.guards: list[gs.Node] = []
        """The joins that compared shapes for later joins, too."""
        self.edge = False

    def run(self) -> None:
        self.uneven.update(name for name, layout in self.made.items() if layout == PER_MODEL)
        nodes = zip(self.corr.graph.nodes, self.plan.lowerings, strict=True)
        for index, (node, lowering) in enumerate(nodes):
            self.emit.scope = node.name or f"{node.op}_{index}"
            self._check(node, lowering)
            outputs = zip(node.outputs, lowering.gives, self._node(index, node, lowering), strict=True)
            for name, layout, held in outputs:
                if name:
                    if layout == SHARED and isinstance(held, tuple):
                        held = held[0]  # all models compute the same
                    self._claim(held, name)
                    self.keep(name, layout, held)
            if PER_MODEL in lowering.gives and self._may_differ(index, node):
                self.uneven.update(filter(None, node.outputs))

    def _check(self, node: Node, lowering: Lowering) -> None:
        if len(lowering.gives) != len(node.outputs):
            raise InternalError(
                f"rule {lowering.rule!r} gives {len(lowering.gives)} layouts for node {node.name!r}"
            )

    # ------------------------------------------------------------------ values

    def keep(self, name: str, layout: Layout, held: Held) -> None:
        self.made[name] = layout
        self._hold(name, layout, held)

    def _hold(self, name: str, layout: Layout, held: Held) -> None:
        self.held[name, layout] = held
        value = self.corr.graph.types.get(name, ValueType())
        dims = None if value.dims is None else layout.merged_dims(value.dims, self.emit.count)
        for tensor in held if isinstance(held, tuple) else (held,):
            self.emit.note(tensor, ValueType(value.dtype, dims))
        if (believed := self.corr.type_of(name).dims) is not None:
            self.emit.sizes.learn(held, layout, believed, self.emit.count)

    def _claim(self, held: Held, name: str) -> None:
        if isinstance(held, tuple):
            for model, tensor in zip(self.corr.names, held, strict=True):
                self.emit.claim(tensor, f"{model}/{name}")
        else:
            self.emit.claim(held, name)

    def fetch(self, name: str, layout: Layout) -> Held:
        """A value in a layout. Each conversion is emitted once, however many nodes read its result."""
        weight = self.corr.weights.get(name)
        if weight and self.emit.writes(weight, layout):
            return self.emit.weight(name, layout)
        if weight and name not in self.made:
            own = STACKED(0) if self.emit.chosen is None else home(weight)
            self.keep(name, own, self.emit.weight(name, own))
        if (name, layout) not in self.held:
            self._convert(name, layout)
        return self.held[name, layout]

    def _convert(self, name: str, layout: Layout) -> None:
        value = self.corr.type_of(name)
        dims = value.dims or ()
        made, scope, before = self.made[name], self.emit.scope, len(self.emit.graph.nodes)
        for hop in route(made, layout, dims, self.plan.provider):
            if (name, hop.dst) not in self.held:
                self.emit.scope = f"{name}/{hop.dst}"
                if hop.src == PER_MODEL:
                    moved: Held = self._join(name, hop.dst, value)
                else:
                    moved = hop.emit(self.emit, self.held[name, hop.src], value.dtype)
                self._hold(name, hop.dst, moved)
        self.emit.scope = scope
        count = len(self.emit.graph.nodes) - before
        if count:
            joins = made == PER_MODEL and name in self.corr.graph.inputs
            self.conversions.append(Conversion(name, str(made), str(layout), count, self.edge or joins))

    def _join(self, name: str, layout: Layout, value: ValueType) -> Tensor:
        """A value of each model as one tensor. Its type is written down, because a comparison of shapes hides
        it from shape inference; symbols are left out, for they belong to the inputs of one model."""
        joined = join(self.emit, self._columns(name), layout, value.dims, name in self.uneven)
        if name in self.uneven and self.trusting:
            self.uneven.discard(name)
            self.guards += joined.inputs
        if isinstance(joined, gs.Variable):
            self._declare(joined, layout, value)
        return joined

    def _columns(self, name: str) -> Sequence[Tensor]:
        held = self.held[name, PER_MODEL]
        return held if isinstance(held, tuple) else (held,)

    def _may_differ(self, index: int, node: Node) -> bool:
        """True where the outputs of a node that runs per model may have unequal shapes."""
        unlike = self.uneven | self.corr.ragged
        mapped = {name for name in node.reads if name and self._is_mapped(name)}
        return (
            index in self.corr.attrs
            or not unlike.isdisjoint(node.reads)
            or traits.ragged(node, mapped, frozenset())
        )

    # ------------------------------------------------------------------ nodes

    def _node(self, index: int, node: Node, lowering: Lowering) -> Sequence[Held]:
        reads = zip(node.reads, lowering.takes, strict=True)
        ins = [self.fetch(name, take) if name and take else None for name, take in reads]
        if lowering.became is Became.SHARED:
            return self.once(node, node.attrs, ins)
        if lowering.became is Became.REPLICATED:
            return self._replicate(index, node, ins)
        if isinstance(lowering.option, NestedPlan):
            return self._merged_inside(node, lowering.option, ins)
        if lowering.option is None:
            raise InternalError(f"the plan has no lowering for node {node.name!r}")
        with blamed(self.corr, lowering.site):
            outputs: list[Held] = lowering.option.emit(lowering.site, ins, self.emit)
        return outputs

    def _is_mapped(self, name: str) -> bool:
        parts = self.corr.weights.get(name)
        return len(parts) > 1 if parts else bool(name) and self.made[name] != SHARED

    def _replicate(self, index: int, node: Node, ins: Sequence[Held | None]) -> Sequence[Held]:
        """Emit the node once per model, on that model's inputs, attributes and captured values."""
        per_model = []
        scope = self.emit.scope
        for m, model in enumerate(self.corr.names):
            self.emit.scope = f"{model}/{scope}"
            attrs = self.corr.attrs[index][m] if index in self.corr.attrs else node.attrs
            mine = [x[m] if isinstance(x, tuple) else x for x in ins]
            per_model.append(self.once(node, attrs, mine))
        self.emit.scope = scope
        return [tuple(outs) for outs in zip(*per_model, strict=True)]

    def _merged_inside(self, node: Node, nested: NestedPlan, ins: Sequence[Any]) -> list[Tensor]:
        """Emit the operator once, on bodies that run all models."""
        count = len(node.inputs)
        attrs = {**node.attrs, **nested.attrs}
        captured: dict[int, Tensor] = {}
        scope = self.emit.scope
        for attr, body in nested.bodies.items():
            child = self.emit.child(f"{scope}/{attr}", body.corr.weights)
            inner = _Lowerer(body.corr, body.plan, child, self.conversions)
            for name, layout in body.inputs.items():
                value = body.corr.graph.types[name]
                dims = None if value.dims is None else layout.merged_dims(value.dims, self.emit.count)
                inner.keep(name, layout, child.input(name, value.dtype, dims))
            for name, held in zip(node.captured, ins[count:], strict=True):
                if held is not None:
                    inner.keep(name, self._layout_of(name), held)
            inner.run()
            for declared, (name, layout) in zip(node.attrs[attr].output, body.outputs.items(), strict=True):
                out = child.output(inner.fetch(name, layout), child.fresh(f"{scope}/{name}"))
                self._declare(
                    out, layout, kinds.filled(body.corr.type_of(name), kinds.of_proto(declared.type))
                )
            rewrite_emitted(child)
            attrs[attr] = child.graph
            captured |= child.captured
        self.emit.scope = scope
        outs = [name != "" for name in node.outputs]
        return self.emit.node(node.op, ins[:count], attrs, outs=outs, captured=list(captured.values()))

    def _declare(self, out: gs.Variable, layout: Layout, value: ValueType) -> None:
        """Write down the type of a value that is held in this layout."""
        dims = None if value.dims is None else layout.merged_dims(value.dims, self.emit.count)
        declare(out, ValueType(value.dtype, dims))

    def _layout_of(self, name: str) -> Layout:
        return STACKED(0) if self._is_mapped(name) else SHARED

    def once(self, node: Node, attrs: Mapping[str, Any], ins: Sequence[Any]) -> list[Tensor]:
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
