"""Control flow with one condition and trip count for all models: the body is merged inside.

A body is a graph of its own, whose inputs are what it captures and what the operator hands it: SHARED, or
STACKED(0) where it differs between the models. It is planned like any other graph, and lower emits it as
the merged operator's body. With a condition per model there is no one path: then the node is replicated.

ONNX: If, Loop, Scan (https://onnx.ai/onnx/operators). Weights never live in bodies, load hoists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx

from netfuse_onnx.emit.bodies import inside
from netfuse_onnx.layouts import SHARED, STACKED, Layout
from netfuse_onnx.load.infer import infer
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.fold import fold
from netfuse_onnx.plan.offers import Bodies, Candidates, kind, propagate
from netfuse_onnx.plan.search import solved
from netfuse_onnx.rules.fallback import BODY
from netfuse_onnx.types import Became, Correspondence, Graph, Lowering, Node, Plan, ValueType

HOW = "merged inside: its bodies run all models, where condition and trip count are the same for all"
WAYS = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class BodyPlan:
    """One body: its graph as a correspondence, its plan, and how its inputs and outputs are held."""

    corr: Correspondence
    plan: Plan
    inputs: Mapping[str, Layout]  # what the operator hands it, in order
    ends: Mapping[str, Layout]


@dataclass(frozen=True)
class Nested:
    """A control-flow operator merged inside; `attrs` are those that change, `nodes` prices it."""

    bodies: Mapping[str, BodyPlan]
    attrs: Mapping[str, object]
    nodes: float


class Apart(Exception):
    """The node must be replicated; the text says why."""


def offers(cost: Cost) -> Bodies:
    """How bodies are merged in plans of this cost."""
    return partial(_offer, cost)


def _offer(cost: Cost, corr: Correspondence, found: Candidates, node: Node) -> Lowering | str:
    """A lowering that merges the bodies of `node`, or why it is replicated."""
    ways = {"If": _if, "Loop": _loop, "Scan": _scan}
    try:
        if node.domain or node.op not in ways:
            return BODY
        return ways[node.op](_Inside(cost, corr, found, node))
    except Apart as reason:
        return str(reason)


class _Inside:
    """What the three operators share: bodies as correspondences, and their plans."""

    def __init__(self, cost: Cost, corr: Correspondence, found: Candidates, node: Node) -> None:
        self.cost, self.corr, self.found, self.node = cost, corr, found, node
        for name in node.reads:
            if name in found.ragged:
                raise Apart(f"the shape of {name!r} may differ between the models")

    def mapped(self, name: str) -> bool:
        return name in self.found.mapped

    def one_for_all(self, names: Iterable[str], what: str) -> None:
        for name in names:
            if name and self.mapped(name):
                raise Apart(f"its {what} {name!r} differs between the models")

    def captured(self) -> dict[str, Layout]:
        """How the captured run-time values are held. Weights are laid out as the body wants them."""
        outer = [name for name in self.node.captured if name not in self.corr.weights]
        return {name: STACKED(0) if self.mapped(name) else SHARED for name in outer}

    def takes(self, explicit: Sequence[Layout | None]) -> tuple[Layout | None, ...]:
        held = self.captured()
        return (*explicit, *(held.get(name) for name in self.node.captured))

    def body(self, attr: str, types: Sequence[ValueType]) -> Correspondence:
        """The body as a correspondence; `types` are those of its inputs."""
        graph: onnx.GraphProto = self.node.attrs[attr]
        inputs = [value.name for value in graph.input]
        captured = [name for name in self.node.captured if name not in self.corr.weights]
        known = dict(zip(inputs, types, strict=True)) | {name: kind(self.corr, name) for name in captured}
        if any(value.proto is not None for value in known.values()):
            raise Apart("it handles values that are not tensors")
        weights = {name: self.corr.weights[name] for name in self.node.captured if name in self.corr.weights}
        outputs = tuple(value.name for value in graph.output)
        inner = Graph(
            graph.name, (*inputs, *captured), outputs, nodes_of(graph),
            {name: parts[0] for name, parts in weights.items()}, known,
        )  # fmt: skip
        typed = infer(replace(self.corr.sources[0], graph=inner)).graph
        sub = replace(self.corr, graph=typed, weights=weights, attrs={}, ragged=frozenset(), believed={})
        return fold(sub)

    def spread(self, sub: Correspondence, given: Mapping[str, Layout]) -> Candidates:
        found = propagate(sub, {**given, **self.captured()}, offers(self.cost), tuned=self.cost.tuned)
        for name in sub.graph.outputs:
            if name in found.ragged or (name in found.mapped and kind(sub, name).dims is None):
                raise Apart(f"the shape of its body's output {name!r} may differ between the models")
        return found

    def planned(self, sub: Correspondence, found: Candidates, given: Mapping[str, Layout],
                ends: Mapping[str, Layout]) -> BodyPlan:  # fmt: skip
        for name, end in ends.items():
            if end != SHARED and kind(sub, name).dims is None:
                raise Apart(f"the rank of its body's output {name!r} is unknown")
        found.ends = dict(ends)
        return BodyPlan(sub, solved(sub, found, self.cost), given, ends)

    def lowering(
        self,
        bodies: Mapping[str, BodyPlan],
        takes: Sequence[Layout | None],
        gives: Sequence[Layout],
        attrs: Mapping[str, object] | None = None,
    ) -> Lowering:
        nodes = 1.0 + sum(body.plan.cost for body in bodies.values())
        option = Nested(bodies, attrs or {}, nodes)
        return Lowering(Became.BATCHED, self.takes(takes), tuple(gives), "merged_inside", option)


def _if(inside: _Inside) -> Lowering:
    inside.one_for_all(inside.node.inputs, "condition")
    subs = {attr: inside.body(attr, ()) for attr in ("then_branch", "else_branch")}
    found = {attr: inside.spread(sub, {}) for attr, sub in subs.items()}
    count = len(inside.node.outputs)
    gives = [
        STACKED(0)
        if any(sub.graph.outputs[k] in found[attr].mapped for attr, sub in subs.items())
        else SHARED
        for k in range(count)
    ]
    bodies = {
        attr: inside.planned(sub, found[attr], {}, dict(zip(sub.graph.outputs, gives, strict=True)))
        for attr, sub in subs.items()
    }
    return inside.lowering(bodies, [SHARED], gives)


def _loop(inside: _Inside) -> Lowering:
    node = inside.node
    inside.one_for_all(node.inputs[:2], "trip count or condition")
    initial = node.inputs[2:]
    scalar = [ValueType(onnx.TensorProto.INT64, ()), ValueType(onnx.TensorProto.BOOL, ())]
    sub = inside.body("body", [*scalar, *(_any_size(kind(inside.corr, name)) for name in initial)])
    states = [inside.mapped(name) for name in initial]
    found = _settled(inside, sub, states, lambda held: [SHARED, SHARED, *held], first_state=1)
    if sub.graph.outputs[0] in found.mapped:
        raise Apart("the condition that its body computes differs between the models")
    held = [STACKED(0) if state else SHARED for state in states]
    collected = _collected(sub, found, 1 + len(initial), [1] * len(node.outputs))
    ends = [
        SHARED,
        *held,
        *(STACKED(0) if name in found.mapped else SHARED for name in sub.graph.outputs[1 + len(held) :]),
    ]
    given = dict(zip(_own(node, "body"), [SHARED, SHARED, *held], strict=True))
    body = inside.planned(sub, found, given, dict(zip(sub.graph.outputs, ends, strict=True)))
    takes = [SHARED, SHARED, *held][: len(node.inputs)]  # an absent condition may not even be named
    return inside.lowering({"body": body}, takes, [*held, *collected])


def _scan(inside: _Inside) -> Lowering:
    node = inside.node
    count = int(node.attrs["num_scan_inputs"])
    states_in, scanned = node.inputs[: len(node.inputs) - count], node.inputs[len(node.inputs) - count :]
    kinds = [kind(inside.corr, name) for name in node.inputs]
    if any(value.dims is None for value in kinds):
        raise Apart("the rank of one of its inputs is unknown")
    in_axes = _axes(node, "scan_input_axes", [value.rank or 0 for value in kinds[len(states_in) :]])
    slices = [_without(value, axis) for value, axis in zip(kinds[len(states_in) :], in_axes, strict=True)]
    sub = inside.body("body", [*kinds[: len(states_in)], *slices])
    states = [inside.mapped(name) for name in states_in]
    parts = [STACKED(0) if inside.mapped(name) else SHARED for name in scanned]
    found = _settled(inside, sub, states, lambda held: [*held, *parts], first_state=0)
    held = [STACKED(0) if state else SHARED for state in states]
    # N stands at the front of each slice: before the scanned axis, or just after it where that is axis 0.
    takes = [
        part if part == SHARED else STACKED(int(axis == 0)) for part, axis in zip(parts, in_axes, strict=True)
    ]
    outs = sub.graph.outputs[len(held) :]
    out_axes = _axes(node, "scan_output_axes", [(kind(sub, name).rank or 0) + 1 for name in outs])
    ends = [*held, *(STACKED(0) if name in found.mapped else SHARED for name in outs)]
    gives = [*held, *_collected(sub, found, len(held), _behind(out_axes))]
    moved = {
        "scan_input_axes": [a + (a > 0 and p != SHARED) for a, p in zip(in_axes, parts, strict=True)],
        "scan_output_axes": [
            a + (a > 0 and e != SHARED) for a, e in zip(out_axes, ends[len(held) :], strict=True)
        ],
    }
    given = dict(zip(_own(node, "body"), [*held, *parts], strict=True))
    body = inside.planned(sub, found, given, dict(zip(sub.graph.outputs, ends, strict=True)))
    return inside.lowering({"body": body}, [*held, *takes], gives, moved)


def _behind(axes: Sequence[int]) -> list[int]:
    """Where the model axis of a collected output stands: behind the new axis where that is axis 0."""
    return [int(axis == 0) for axis in axes]


def _settled(
    inside: _Inside,
    sub: Correspondence,
    states: list[bool],
    given: Callable[[list[Layout]], list[Layout]],
    *,
    first_state: int,
) -> Candidates:
    """Mark states that the body makes differ, until nothing changes. `given` lays out the body's inputs
    around its states; the state's new values are its outputs from `first_state` on."""
    own = _own(inside.node, "body")
    while True:
        held = [STACKED(0) if state else SHARED for state in states]
        found = inside.spread(sub, dict(zip(own, given(held), strict=True)))
        after = [sub.graph.outputs[first_state + k] in found.mapped for k in range(len(states))]
        if not any(new and not old for new, old in zip(after, states, strict=True)):
            return found
        states[:] = [new or old for new, old in zip(after, states, strict=True)]


def _collected(sub: Correspondence, found: Candidates, first: int, places: Sequence[int]) -> list[Layout]:
    names = sub.graph.outputs[first:]
    return [STACKED(at) if name in found.mapped else SHARED for name, at in zip(names, places, strict=False)]


def _own(node: Node, attr: str) -> list[str]:
    return [value.name for value in node.attrs[attr].input]


def _axes(node: Node, attr: str, ranks: Sequence[int]) -> list[int]:
    given = node.attrs.get(attr) or [0] * len(ranks)
    return [axis + rank if axis < 0 else axis for axis, rank in zip(given, ranks, strict=True)]


def _any_size(value: ValueType) -> ValueType:
    """A state may change its sizes from one iteration to the next, not its rank."""
    return value if value.dims is None else replace(value, dims=(None,) * len(value.dims))


def _without(value: ValueType, axis: int) -> ValueType:
    dims = value.dims or ()
    return replace(value, dims=dims[:axis] + dims[axis + 1 :])


def nodes_of(graph: onnx.GraphProto) -> tuple[Node, ...]:
    """The nodes of a body in normal form."""
    return tuple(
        Node(
            proto.op_type, proto.domain, proto.name, tuple(proto.input), tuple(proto.output),
            {attr.name: onnx.helper.get_attribute_value(attr) for attr in proto.attribute},
            tuple(dict.fromkeys(name for body in inside(proto) for name in outer(body))),
        )
        for proto in graph.node
    )  # fmt: skip


def outer(graph: onnx.GraphProto) -> Iterable[str]:
    """The values that a body reads from outside, in order of use."""
    own = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in node.input if name and name not in own)
        for body in inside(node):
            yield from (name for name in outer(body) if name not in own)
