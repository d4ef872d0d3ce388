"""Probes: small models that hold the lowerings of one case, or one conversion, as the merged graph would.

The body of the lowering emits into a real emitter, so that nothing here knows an operator. Values that the
node reads at run time are inputs of the probe, in the layouts that the lowering takes; weights are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnx import ModelProto, TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.emit.stored_once import stored_once
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED, Layout, route
from netfuse_onnx.layouts.join import join
from netfuse_onnx.lower.emitted.passes import rewrite_emitted
from netfuse_onnx.lower.finish import written
from netfuse_onnx.ops import kinds, traits, walk
from netfuse_onnx.ops.kinds import UNJOINABLE
from netfuse_onnx.rules import Option, Site
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.tune import readers
from netfuse_onnx.tune.cases import Case, ConversionCase, Member, NodeCase
from netfuse_onnx.types import Became, ValueType, Weight


class Unprobed(Exception):
    """There is no probe; the text says why."""


@dataclass(frozen=True)
class Fed:
    """An input of a probe: its element type and its sizes."""

    dtype: int
    shape: tuple[int, ...]


@dataclass
class Probe:
    """A model of what is measured. `recipes` are those of its weights, which have no bytes yet. `read` is the
    number of results that a reader of each kind reads. `once`: the nodes that all copies share."""

    model: ModelProto
    recipes: Mapping[str, Recipe]
    inputs: Mapping[str, Fed]
    read: Mapping[str, int]
    once: frozenset[str] = frozenset()
    copies: int = 1

    @property
    def nodes(self) -> int:
        return len(self.model.graph.node)


def probe(case: Case, provider: str = "") -> Probe:
    """The model of a case, once. Raises Unprobed where it has none."""
    builder = _Builder(case.models, case.opsets, provider)
    if isinstance(case, NodeCase):
        for member in case.members:
            site, sized = member.lowering.site, member.sized
            _sized_symbols(builder, (*site.inputs, *site.outputs), (*sized.inputs, *sized.outputs))
        _emit_nodes(builder, case)
    else:
        _sized_symbols(builder, [case.declared], [case.sized])
        _emit_conversion(builder, case)
    return builder.finished()


def repeated(one: Probe, copies: int) -> Probe:
    """A probe with so many copies, which read the same values and constants, and weights of their own."""
    model = ModelProto()
    model.CopyFrom(one.model)
    for part in (model.graph.node, model.graph.output, model.graph.initializer):
        del part[:]
    kept = {"", *one.inputs, *(x.name for x in one.model.graph.initializer if x.name not in one.recipes)}
    kept.update(name for node in one.model.graph.node if node.name in one.once for name in node.output)
    recipes: dict[str, Recipe] = {}
    for copy in range(copies):

        def named(name: str, copy: int = copy) -> str:
            return name if name in kept else f"{name}#{copy}"

        _append(model, one, copy, named)
        recipes |= {named(name): recipe for name, recipe in one.recipes.items()}
    read = {kind: count * copies for kind, count in one.read.items()}
    return replace(one, model=model, recipes=recipes, read=read, copies=copies)


def _append(model: ModelProto, one: Probe, copy: int, named: Callable[[str], str]) -> None:
    for node in one.model.graph.node:
        if copy == 0 or node.name not in one.once:
            made = model.graph.node.add()
            made.CopyFrom(node)
            made.name = f"{node.name}#{copy}"
            made.input[:], made.output[:] = map(named, node.input), map(named, node.output)
            for _, body in walk.bodies(made):
                walk.rename(body, named)
    for output in one.model.graph.output:
        model.graph.output.add().CopyFrom(output)
        model.graph.output[-1].name = named(output.name)
    for tensor in one.model.graph.initializer:
        if copy == 0 or tensor.name in one.recipes:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = named(tensor.name)


def _sized_symbols(builder: _Builder, declared: Sequence[ValueType], sized: Sequence[ValueType]) -> None:
    for kind, sizes in zip(declared, sized, strict=True):
        for dim, size in zip(kind.dims or (), sizes.dims or (), strict=False):
            if isinstance(dim, str) and isinstance(size, int):
                builder.symbols[dim] = size


# --------------------------------------------------------------------------- one copy


def _emit_nodes(builder: _Builder, case: NodeCase) -> None:
    """The nodes of a case. What only they themselves read of it gets no reader."""
    made: dict[str, tuple[Layout, Held]] = {}
    inside = {name for member in case.members for name in member.lowering.site.node.inputs}
    for member in case.members:
        site, gives = member.lowering.site, member.lowering.gives
        builder.emit.scope = site.node.op
        outputs = _emit_node(builder, member, made)
        named = zip(site.node.outputs, gives, outputs, site.outputs, strict=True)
        for name, layout, held, kind in named:
            if name:
                mine = held[0] if layout == SHARED and isinstance(held, tuple) else held
                builder.note(mine, layout, kind)
                made[name] = layout, mine
                if name not in inside:
                    builder.read(mine, layout, kind)


def _emit_node(builder: _Builder, member: Member, made: Mapping[str, tuple[Layout, Held]]) -> Sequence[Held]:
    site, option, emit = member.lowering.site, member.lowering.option, builder.emit
    if traits.has_bodies(site.node) or site.node.captured:
        raise Unprobed("it has bodies")
    if any(kind.proto is not None for kind in (*site.inputs, *site.outputs)):
        raise Unprobed("it handles values that are not tensors")
    ins = [builder.operand(member, k, made) for k in range(len(site.node.inputs))]
    builder.tell_sizes()
    if member.lowering.became is Became.REPLICATED:
        return _replicated(site, ins, emit)
    if isinstance(option, Option):
        return option.emit(site, ins, emit)
    return _itself(site, ins, site.node.attrs, emit)


def _itself(site: Site, ins: Sequence[Any], attrs: Mapping[str, Any], emit: Emitter) -> list[Tensor]:
    outs = [name != "" for name in site.node.outputs]
    return emit.node(site.node.op, ins, attrs, outs=outs, domain=site.node.domain)


def _replicated(site: Site, ins: Sequence[Held | None], emit: Emitter) -> list[Held]:
    per_model = []
    for m in range(site.models):
        attrs = site.attrs[m] if site.attrs else site.node.attrs
        per_model.append(_itself(site, [x[m] if isinstance(x, tuple) else x for x in ins], attrs, emit))
    return [tuple(outs) for outs in zip(*per_model, strict=True)]


def _emit_conversion(builder: _Builder, case: ConversionCase) -> None:
    def made(layout: Layout, count: int) -> Held:
        held = builder.value("x", layout, case.declared, case.sized)
        builder.tell_sizes()
        return held

    held = converted(case, builder.emit, made, lambda held, layout: builder.note(held, layout, case.declared))
    builder.read(held, case.dst, case.declared)


def converted(
    case: ConversionCase,
    emit: Emitter,
    made: Callable[[Layout, int], Held],
    note: Callable[[Held, Layout], None],
) -> Held:
    """Emit a conversion as lower does. `made` gives the value in its layout, as so many tensors, 0 for one;
    `note` is told of each hop. Raises Unprobed where the value can't be joined."""
    dims, dtype = case.declared.dims, case.declared.dtype
    if dims is None or case.declared.proto is not None or dtype in UNJOINABLE:
        raise Unprobed("it is no tensor that can be joined")
    held = made(case.src, case.models if case.src == PER_MODEL else 0)
    for hop in route(case.src, case.dst, dims, case.provider):
        emit.scope = f"x/{hop.dst}"
        if hop.src == PER_MODEL:
            parts = held if isinstance(held, tuple) else (held,)
            held = join(emit, parts, hop.dst, dims, case.compare)
        else:
            held = hop.emit(emit, held, dtype)
        note(held, hop.dst)
    return held


# --------------------------------------------------------------------------- the model


@dataclass
class _Builder:
    """Collects what a case emits."""

    models: int
    opsets: Mapping[str, int]
    provider: str
    symbols: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights: dict[str, tuple[Weight, ...]] = {}
        opset = self.opsets.get("", 1)
        self.emit = Emitter("probe", self.models, opset, self.weights, (), self.provider)
        self.inputs: dict[str, tuple[ValueType, Fed]] = {}
        self.values: dict[tuple[str, Layout], Held] = {}
        self.counts: dict[str, int] = {}
        self.results: list[ValueType] = []

    def operand(self, member: Member, place: int, made: Mapping[str, tuple[Layout, Held]]) -> Held | None:
        """Input `place` of a node in the layout that the lowering takes. `made`: the values of this case."""
        site, take = member.lowering.site, member.lowering.takes[place]
        name = site.node.inputs[place]
        if not name or take is None:
            return None
        if parts := site.parts[place]:
            return self.weight(name, parts, take)
        if name in made:
            layout, held = made[name]
            if layout != take:
                raise Unprobed(f"{name!r} would be converted")
            return held
        return self.value(name, take, site.inputs[place], member.sized.inputs[place])

    def weight(self, name: str, parts: tuple[Weight, ...], layout: Layout) -> Held:
        """A weight. A layout that the writer can't lay out is made by nodes when a session loads
        the file."""
        self.weights.setdefault(name, parts)
        if layout.runs(parts[0].shape) is not None:
            return self.emit.weight(name, layout)
        if (name, layout) not in self.values:
            kind = kinds.of_weight(parts[0])
            held = self.emit.weight(name, STACKED(0))
            for hop in route(STACKED(0), layout, parts[0].shape, self.provider):
                held = hop.emit(self.emit, held, kind.dtype)
            self.note(held, layout, kind)
            self.values[name, layout] = held
        return self.values[name, layout]

    def value(self, name: str, layout: Layout, kind: ValueType, sized: ValueType) -> Held:
        """A value that is made at run time, as inputs of the probe."""
        if (name, layout) not in self.values:
            count = self.models if layout == PER_MODEL else 0
            names = [f"{name}/{layout}/{m}" for m in range(count)] or [f"{name}/{layout}"]
            made = tuple(self._input(n, layout, kind, sized) for n in names)
            held: Held = made if count else made[0]
            self.note(held, layout, kind)
            self.values[name, layout] = held
        return self.values[name, layout]

    def _input(self, name: str, layout: Layout, kind: ValueType, sized: ValueType) -> Tensor:
        shape = None if sized.dims is None else layout.merged_dims(sized.dims, self.models)
        if shape is None or not all(isinstance(dim, int) for dim in shape) or not kind.dtype:
            raise Unprobed(f"the sizes of {name!r} are unknown")
        dims = None if kind.dims is None else layout.merged_dims(kind.dims, self.models)
        declared = ValueType(kind.dtype, dims)
        self.inputs[name] = declared, Fed(kind.dtype, tuple(int(dim or 0) for dim in shape))
        return self.emit.input(name)

    def tell_sizes(self) -> None:
        """Let inputs of their own tell the sizes that no value read so far tells. In the merged graph some
        other value does."""
        for symbol, size in self.symbols.items():
            name, kind = f"size/{symbol}", ValueType(TensorProto.INT8, (symbol,))
            if name not in self.inputs:
                self.inputs[name] = kind, Fed(kind.dtype, (size,))
                self.emit.sizes.learn(self.emit.input(name), SHARED, (symbol,), self.models)

    def note(self, held: Held, layout: Layout, kind: ValueType) -> None:
        """Remember the type of a value, and the sizes that it tells, as lower does."""
        dims = None if kind.dims is None else layout.merged_dims(kind.dims, self.models)
        for tensor in held if isinstance(held, tuple) else (held,):
            self.emit.note(tensor, ValueType(kind.dtype, dims))
        if kind.dims is not None:
            self.emit.sizes.learn(held, layout, kind.dims, self.models)

    def read(self, held: Held, layout: Layout, kind: ValueType) -> None:
        """Let a reader keep a result alive."""
        if kind.dims is None:
            raise Unprobed("the rank of a result is unknown")
        rank = len(layout.merged_dims(kind.dims, self.models))
        for tensor in held if isinstance(held, tuple) else (held,):
            name = f"result/{len(self.results)}"
            reader, result = readers.read(self.emit, tensor, kind.dtype, rank, name)
            self.results.append(result)
            self.counts[reader] = self.counts.get(reader, 0) + 1

    def finished(self) -> Probe:
        graph = self.emit.graph.cleanup()
        list(stored_once(self.emit))
        rewrite_emitted(self.emit)
        model = written(self.emit, self.opsets, ir_version=10)
        used = [x.name for x in graph.inputs if x.outputs]
        for part, infos in (("input", self._infos(used)), ("output", self._results(model))):
            model.graph.ClearField(part)
            getattr(model.graph, part).extend(infos)
        fed = {name: self.inputs[name][1] for name in used}
        stored = {x.name for x in model.graph.initializer}
        recipes = {name: recipe for name, recipe in self.emit.recipes.items() if name in stored}
        once = frozenset(node.name for node in self.emit.sizes.nodes)
        return Probe(model, recipes, fed, dict(self.counts), once)

    def _infos(self, used: Sequence[str]) -> Iterator[Any]:
        return (kinds.declared(name, self.inputs[name][0]) for name in used)

    def _results(self, model: Any) -> list[Any]:
        return [
            kinds.declared(x.name, kind) for x, kind in zip(model.graph.output, self.results, strict=True)
        ]
