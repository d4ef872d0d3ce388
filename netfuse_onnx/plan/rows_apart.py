"""Proves that a graph computes each row of its batch by itself, whatever the other rows are.

A value is *rowed* at an axis where the graph holds, for a batch of B rows, what it gives for each row alone,
one after the other along that axis: the layout FOLDED(axis), a row in the place of a model. The inputs are
rowed at axis 0. From there each node must carry rows on: one of its rules takes its inputs so and emits the
node as it is, or one of the cases of row_cases.py holds (broadcasting, reshaping, sizes computed from the
batch). What nothing tells is refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from netfuse_onnx.emit.counting import CountingEmitter
from netfuse_onnx.errors import NotRoutable
from netfuse_onnx.layouts import FOLDED, SHARED, Layout
from netfuse_onnx.ops import schemas, traits
from netfuse_onnx.ops.axes import INPUTS
from netfuse_onnx.plan import row_sizes
from netfuse_onnx.plan.row_cases import SPECIAL
from netfuse_onnx.plan.row_dims import finer
from netfuse_onnx.plan.row_sizes import Size, Sizes
from netfuse_onnx.plan.row_states import HAVE_ROWS, Mixed, Rowed, State
from netfuse_onnx.rewrite.per_row import of_one_row
from netfuse_onnx.routing import routing
from netfuse_onnx.rules import Option, Site, options
from netfuse_onnx.storage.weights import array
from netfuse_onnx.types import Correspondence, Dim, Graph, Node, ValueType

MANY = 1009
"""The rows that a site has in the place of models: a prime that no dim is likely to have."""
KEEPS_FIRST = frozenset({
    "AveragePool", "BatchNormalization", "BiasGelu", "Conv", "ConvTranspose", "FusedConv", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "MaxPool", "QuickGelu", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""The operators whose first output has as many entries along axis 0 as their first input."""
HINT = "Use --io stacked, or export the models so that each row of a batch is computed by itself."


def require_rows_apart(family: Correspondence, share: frozenset[str], until: float = float("inf")) -> None:
    """Raise NotRoutable where some output may not be one row for each row of the inputs, computed from that
    row alone. `share` are the inputs that are fed once. `until` is the time.monotonic() at which it gives
    up."""
    found = routing(family)
    one = of_one_row(family)
    walk = _Walk(family, one, {name: Rowed(0) for name in found.rows})
    source = family.sources[0].path
    for index, node in enumerate(family.graph.nodes):
        try:
            if time.monotonic() > until:
                raise Mixed("that was not known in time")
            walk.node(index, node)
        except Mixed as why:
            name = f"{node.key} {node.name or node.outputs[0]!r}"
            raise NotRoutable(f"{name} of {source} may mix the rows of a batch: {why}.", HINT) from why
    for name in family.graph.outputs:
        if walk.states.get(name) != Rowed(0, 1):
            raise NotRoutable(
                f"Output {name!r} of {source} has no leading axis with one entry for each row of a batch.",
                "Use --io stacked, or export the models without this output.",
            )


class _Walk:
    """The states of all values, node by node."""

    def __init__(self, family: Correspondence, one: Graph, states: Mapping[str, State]) -> None:
        self.family, self.types = family, one.types
        self.states: dict[str, State] = dict(states)
        self.free: dict[str, Sizes] = {}
        """Sizes that are the same for any batch."""
        self.finer: dict[str, tuple[Dim, ...]] = {}
        """Dims of which more is known than onnx infers."""

    def node(self, index: int, node: Node) -> None:
        """Find the states of a node's outputs. Raises Mixed."""
        if not any(self.states.get(name) for name in node.reads):
            self._free(node)
            return
        if traits.random(node):
            raise Mixed("it draws random numbers")
        if traits.has_bodies(node):
            raise Mixed("it has bodies, of which that is not known")
        each = [self._found(replace(node, attrs=attrs)) for attrs in self.family.attrs.get(index, ())]
        made = each[0] if each else self._found(node)
        if any(other != made for other in each):
            raise Mixed("its attributes differ between the models")
        for k, name in enumerate(node.outputs):
            state = made[min(k, len(made) - 1)]
            if isinstance(state, Sizes) and state.free:
                self.free[name], state = state, None
            self.states[name] = state

    def _found(self, node: Node) -> Sequence[State]:
        made = self._made(node)
        return self._by_rules(node) if made is None else made

    def _free(self, node: Node) -> None:
        """Note what is known of a value that is the same for any batch: sizes in it, and its own size."""
        name = node.outputs[0]
        if node.op == "Shape" and not node.domain and not node.attrs:
            self.free[name] = Sizes(tuple(Size(False, dim) for dim in self.kind(node.inputs[0]).dims or ()))
            return
        sizes = [self.sizes(n) if n else None for n in node.inputs]
        found = row_sizes.compute(node, sizes, [self.constant(n) for n in node.inputs])
        if found is not None:
            self.free[name] = found
        if (dims := finer(self, node)) is not None:
            self.finer[name] = dims

    def _made(self, node: Node) -> Sequence[State] | None:
        """The states of outputs by one of the cases of this module; None where it has none."""
        ins = [self.states.get(name) for name in node.inputs]
        special = SPECIAL.get(node.key)
        if special is not None and (made := special(self, node, ins)) is not None:
            return [made]
        if not any(isinstance(state, HAVE_ROWS) for state in ins):
            sizes = [self.sizes(name) for name in node.inputs]
            found = row_sizes.compute(node, sizes, [self.constant(name) for name in node.inputs])
            return None if found is None else [found]
        return None

    # ------------------------------------------------------------------ facts about values

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """A small weight that all models share."""
        parts = self.family.weights.get(name, ())
        small = len(parts) == 1 and isinstance(parts[0].data, bytes)
        return array(parts[0]) if small else None

    def kind(self, name: str) -> ValueType:
        """The type of a value for a batch of 1."""
        parts = self.family.weights.get(name)
        if parts:
            return ValueType(parts[0].dtype, parts[0].shape)
        kind = self.types.get(name, ValueType())
        dims, state = self.finer.get(name, kind.dims), self.states.get(name)
        if dims is not None and isinstance(state, HAVE_ROWS) and state.axis < len(dims):
            dims = (*dims[: state.axis], state.width, *dims[state.axis + 1 :])
        return ValueType(kind.dtype, dims)

    def dims(self, name: str) -> tuple[Dim, ...]:
        dims = self.kind(name).dims
        if dims is None:
            raise Mixed(f"the rank of {name!r} is unknown")
        return dims

    def note(self, name: str, dims: tuple[Dim, ...]) -> None:
        """Remember dims where onnx infers less."""
        known = self.types.get(name, ValueType()).dims or (None,) * len(dims)
        self.finer[name] = tuple(
            a if isinstance(a, int) or b is None else b for a, b in zip(known, dims, strict=True)
        )

    def sizes(self, name: str) -> Sizes | None:
        """The sizes in a value, also in one that is the same for any batch."""
        state = self.states.get(name)
        if isinstance(state, Sizes):
            return state
        if state is not None:
            return None
        if name in self.free:
            return self.free[name]
        value = self.constant(name)
        return row_sizes.of_constant(value) if value is not None else row_sizes.unknown(self.kind(name).dims)

    # ------------------------------------------------------------------ rules

    def _by_rules(self, node: Node) -> Sequence[State]:
        """The rows in the place of models: a rule must take the inputs as they are, and emit the node as it
        is."""
        states = [self.states.get(name) for name in node.inputs]
        if not all(isinstance(state, Rowed | None) for state in states):
            raise Mixed("it computes with the size of the batch")
        wanted = [FOLDED(s.axis) if isinstance(s, Rowed) else SHARED for s in states]
        site = self._site(node)
        offers, reason = options(site, tuned=True, measures=True)
        for option in offers:
            if _takes(option, wanted, node) and _as_it_is(option, site):
                return [self._given(node, *pair) for pair in zip(node.outputs, option.gives, strict=False)]
        raise Mixed(reason or "none of its rules keeps them apart as they are")

    def _given(self, node: Node, name: str, layout: Layout) -> State:
        """The state of an output in the layout of a rule. Its width is that for a batch of 1."""
        first, dims = self.states.get(node.inputs[0]), self.kind(name).dims
        if not layout.folded:
            return None
        if node.op in KEEPS_FIRST and isinstance(first, Rowed) and first.axis == layout.axis == 0:
            return first
        return Rowed(layout.axis, None if dims is None else dims[layout.axis])

    def _site(self, node: Node) -> Site:
        weights = self.family.weights
        return Site(
            node,
            MANY,
            self.family.opsets,
            tuple(map(self.kind, node.inputs)),
            tuple(map(self.kind, node.outputs)),
            tuple(self.states.get(name) is not None for name in node.inputs),
            tuple(name in weights for name in node.inputs),
            tuple(map(self.constant, node.inputs)),
            (),
            tuple(weights.get(name, ())[:1] for name in node.inputs),
        )


def _takes(option: Option, wanted: Sequence[Layout], node: Node) -> bool:
    pairs = zip(node.inputs, option.takes, wanted, strict=False)
    read = all(take == want or (take is None and want == SHARED) for name, take, want in pairs if name)
    return read and all(layout.folded or layout == SHARED for layout in option.gives)


def _as_it_is(option: Option, site: Site) -> bool:
    """True where the body of an option emits the node itself, on the inputs themselves."""
    emit, node = CountingEmitter(site.total, site.opset), site.node
    emit.begin({name: parts for name, parts in zip(node.inputs, site.parts, strict=True) if parts})
    ins: list[Any] = []
    for name, take, kind, parts in zip(node.inputs, option.takes, site.inputs, site.parts, strict=False):
        if not name or take is None:
            ins.append(None)
        elif parts:
            ins.append(emit.weight(name, take))
        else:
            dims = None if kind.dims is None else take.merged_dims(kind.dims, site.total)
            ins.append(emit.value(ValueType(kind.dtype, dims)))
    option.emit(site, ins, emit)
    if len(emit.steps) != 1:
        return False
    step = emit.steps[0]
    return (
        (step.op, step.domain, len(step.outputs)) == (node.op, node.domain, len(node.outputs))
        and _attributes(site, step.attrs) == _attributes(site, node.attrs)
        and all(
            _same_input(site, k, given, mine) for k, (given, mine) in enumerate(zip_longest(step.inputs, ins))
        )
    )


def _same_input(site: Site, place: int, given: Any, own: Any) -> bool:
    """True where a node was given its own input, or a constant that is equal to it. Axes may count from the
    front."""
    if given is own:
        return True
    want, value = site[place].value, getattr(given, "value", None)
    if want is None or not isinstance(value, np.ndarray) or want.size != value.size:
        return False
    rank = max(len(kind.dims or ()) for kind in (site.inputs[0], site.outputs[0]))
    return INPUTS.get(site.node.key) == place and _set(want, rank) == _set(value, rank)


def _set(axes: np.ndarray[Any, Any], rank: int) -> list[int]:
    return sorted(int(axis) % rank for axis in axes.reshape(-1))


def _attributes(site: Site, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes with their defaults; an axis counts from the front."""
    node, rank = site.node, len(site.inputs[0].dims or ())
    given = {**schemas.defaults(node.op, node.domain, site.opsets.get(node.domain, 1)), **attrs}
    if isinstance(axis := given.get("axis"), int) and axis < 0:
        given["axis"] = axis + rank
    return {name: str(value) for name, value in given.items()}
