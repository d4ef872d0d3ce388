"""Control flow with one condition and trip count for all models: the operator runs once, on merged bodies.

A body is a graph of its own, whose inputs are what it captures and what the operator hands it: SHARED, or
STACKED(0) where it differs between the models. It is planned like any other graph, and lower emits it as
the merged operator's body. Where the condition differs between the models, they take different paths, and the
node is replicated.

ONNX: If, Loop, Scan (https://onnx.ai/onnx/operators). Weights never live in bodies, load hoists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import onnx

from netfuse_onnx.layouts import SHARED, STACKED, Layout
from netfuse_onnx.load.infer import infer
from netfuse_onnx.ops import walk
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.nested import BodyPlan, NestedPlan
from netfuse_onnx.plan.offers import Bodies, Candidates, propagate
from netfuse_onnx.plan.search import solved
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.rules import Site
from netfuse_onnx.rules.fallback import BODY
from netfuse_onnx.types import Became, Correspondence, Graph, Lowering, Node, ValueType

HOW = "merged inside: its bodies run all models, where condition and trip count are the same for all"
WAYS = ("If", "Loop", "Scan")


class MustReplicate(Exception):
    """The node is replicated; the text is the reason."""


def offers(cost: Cost) -> Bodies:
    """The function that offers lowerings for nodes with bodies, planned with this cost."""
    return partial(_offer, cost)


def _offer(cost: Cost, corr: Correspondence, candidates: Candidates, site: Site) -> Lowering | str:
    """A lowering that merges the bodies of a node, or the reason why it is replicated."""
    operators = {"If": _if, "Loop": _loop, "Scan": _scan}
    node = site.node
    if node.domain or node.op not in operators:
        return BODY
    try:
        return operators[node.op](_Operator(cost, corr, candidates, site))
    except MustReplicate as reason:
        return str(reason)


class _Operator:
    """A control-flow node: its bodies as correspondences, and their plans."""

    def __init__(self, cost: Cost, corr: Correspondence, candidates: Candidates, site: Site) -> None:
        self.cost, self.corr, self.candidates, self.site = cost, corr, candidates, site
        self.node = site.node
        for name in self.node.reads:
            if name in candidates.ragged:
                raise MustReplicate(f"the shape of {name!r} may differ between the models")

    def layout(self, name: str) -> Layout:
        """The layout in which the operator takes a value."""
        return STACKED(0) if name in self.candidates.mapped else SHARED

    def require_shared(self, names: Iterable[str], role: str) -> None:
        """Raises MustReplicate where one of these inputs differs between the models."""
        for name in names:
            if name and name in self.candidates.mapped:
                raise MustReplicate(f"its {role} {name!r} differs between the models")

    def captured(self) -> dict[str, Layout]:
        """The layouts of the captured run-time values. Weights are laid out as the body wants them."""
        return {name: self.layout(name) for name in self.node.captured if name not in self.corr.weights}

    def body(self, attr: str, types: Sequence[ValueType]) -> Correspondence:
        """The body as a correspondence; `types` are those of its inputs."""
        graph: onnx.GraphProto = self.node.attrs[attr]
        inputs = [value.name for value in graph.input]
        captured = [name for name in self.node.captured if name not in self.corr.weights]
        known = dict(zip(inputs, types, strict=True)) | {name: self.corr.type_of(name) for name in captured}
        if any(value.proto is not None for value in known.values()):
            raise MustReplicate("it handles values that are not tensors")
        weights = {name: self.corr.weights[name] for name in self.node.captured if name in self.corr.weights}
        outputs = tuple(value.name for value in graph.output)
        inner = Graph(
            graph.name, (*inputs, *captured), outputs, tuple(map(walk.node_of, graph.node)),
            {name: parts[0] for name, parts in weights.items()}, known,
        )  # fmt: skip
        typed = infer(replace(self.corr.sources[0], graph=inner)).graph
        body = replace(self.corr, graph=typed, weights=weights, attrs={}, ragged=frozenset(), believed={})
        return fold(body)

    def propagated(self, body: Correspondence, inputs: Mapping[str, Layout]) -> Candidates:
        """The candidates of a body whose inputs have these layouts."""
        layouts = {**inputs, **self.captured()}
        candidates = propagate(body, layouts, offers(self.cost), self.cost, chosen=self.candidates.chosen)
        for name in body.graph.outputs:
            if name in candidates.ragged or (name in candidates.mapped and body.type_of(name).dims is None):
                raise MustReplicate(f"the shape of its body's output {name!r} may differ between the models")
        return candidates

    def planned(
        self,
        body: Correspondence,
        candidates: Candidates,
        inputs: Mapping[str, Layout],
        outputs: Mapping[str, Layout],
    ) -> BodyPlan:
        for name, layout in outputs.items():
            if layout != SHARED and body.type_of(name).dims is None:
                raise MustReplicate(f"the rank of its body's output {name!r} is unknown")
        candidates.ends = dict(outputs)
        return BodyPlan(body, solved(body, candidates, self.cost), inputs, outputs)

    def lowering(
        self,
        bodies: Mapping[str, BodyPlan],
        takes: Sequence[Layout | None],
        gives: Sequence[Layout],
        attrs: Mapping[str, object] | None = None,
        trips: int = 1,
    ) -> Lowering:
        """`trips`: the iterations for which the bodies are priced."""
        captured = self.captured()
        reads = (*takes, *(captured.get(name) for name in self.node.captured))
        nodes = 1.0 + trips * sum(body.plan.cost for body in bodies.values())
        option = NestedPlan(bodies, attrs or {}, nodes)
        gives = tuple(gives[: len(self.node.outputs)])
        return Lowering(Became.BATCHED, reads, gives, self.site, "merged_inside", option)


def _if(operator: _Operator) -> Lowering:
    operator.require_shared(operator.node.inputs, "condition")
    bodies = {attr: operator.body(attr, ()) for attr in ("then_branch", "else_branch")}
    candidates = {attr: operator.propagated(body, {}) for attr, body in bodies.items()}
    gives = [
        STACKED(0)
        if any(body.graph.outputs[k] in candidates[attr].mapped for attr, body in bodies.items())
        else SHARED
        for k in range(len(operator.node.outputs))
    ]
    plans = {
        attr: operator.planned(body, candidates[attr], {}, dict(zip(body.graph.outputs, gives, strict=True)))
        for attr, body in bodies.items()
    }
    return operator.lowering(plans, [SHARED], gives)


def _loop(operator: _Operator) -> Lowering:
    node = operator.node
    operator.require_shared(node.inputs[:2], "trip count or condition")
    initial = node.inputs[2:]
    scalars = [ValueType(onnx.TensorProto.INT64, ()), ValueType(onnx.TensorProto.BOOL, ())]
    types = map(operator.corr.type_of, initial)
    body = operator.body("body", [*scalars, *map(_any_size, types)])
    states = [*map(operator.layout, initial)]
    candidates, states = _with_states(operator, body, states, lambda held: [SHARED, SHARED, *held], 1)
    if body.graph.outputs[0] in candidates.mapped:
        raise MustReplicate("the condition that its body computes differs between the models")
    collected = body.graph.outputs[1 + len(states) :]
    outputs = [SHARED, *states, *_stacked(candidates, collected, [0] * len(collected))]
    inputs = dict(zip(_inputs(node, "body"), [SHARED, SHARED, *states], strict=True))
    plan = operator.planned(body, candidates, inputs, dict(zip(body.graph.outputs, outputs, strict=True)))
    takes = [SHARED, SHARED, *states][: len(node.inputs)]  # an absent condition may not even be named
    gives = [*states, *_stacked(candidates, collected, [1] * len(collected))]
    count = operator.site.values[0]
    trips = operator.cost.size(None if count is None else int(count))
    return operator.lowering({"body": plan}, takes, gives, trips=trips)


def _scan(operator: _Operator) -> Lowering:
    node = operator.node
    count = len(node.inputs) - int(node.attrs["num_scan_inputs"])
    initial, scanned = node.inputs[:count], node.inputs[count:]
    types = [*map(operator.corr.type_of, node.inputs)]
    if any(kind.dims is None for kind in types):
        raise MustReplicate("the rank of one of its inputs is unknown")
    in_axes = _axes(node, "scan_input_axes", [kind.rank or 0 for kind in types[count:]])
    slices = [_without(kind, axis) for kind, axis in zip(types[count:], in_axes, strict=True)]
    body = operator.body("body", [*types[:count], *slices])
    parts = [*map(operator.layout, scanned)]
    states = [*map(operator.layout, initial)]
    candidates, states = _with_states(operator, body, states, lambda held: [*held, *parts], 0)
    collected = body.graph.outputs[count:]
    out_axes = _axes(node, "scan_output_axes", [(body.type_of(name).rank or 0) + 1 for name in collected])
    outputs = [*states, *_stacked(candidates, collected, [0] * len(collected))]
    moved = {
        "scan_input_axes": _behind_models(in_axes, parts),
        "scan_output_axes": _behind_models(out_axes, outputs[count:]),
    }
    inputs = dict(zip(_inputs(node, "body"), [*states, *parts], strict=True))
    plan = operator.planned(body, candidates, inputs, dict(zip(body.graph.outputs, outputs, strict=True)))
    # The model axis is the first of each slice: it stands before the scanned axis, or just after axis 0.
    takes = [
        part if part == SHARED else STACKED(int(axis == 0)) for part, axis in zip(parts, in_axes, strict=True)
    ]
    gives = [*states, *_stacked(candidates, collected, [int(axis == 0) for axis in out_axes])]
    trips = operator.cost.size((types[count].dims or ())[in_axes[0]])
    return operator.lowering({"body": plan}, [*states, *takes], gives, moved, trips)


def _with_states(
    operator: _Operator,
    body: Correspondence,
    states: list[Layout],
    inputs: Callable[[list[Layout]], list[Layout]],
    first: int,
) -> tuple[Candidates, list[Layout]]:
    """The candidates of a body, and the layouts of its states. A state that becomes mapped in one iteration
    is mapped from the start, until nothing changes. `inputs` puts the layouts of the body's other inputs
    around those of its states; the states' new values are its outputs from `first` on."""
    names = _inputs(operator.node, "body")
    while True:
        candidates = operator.propagated(body, dict(zip(names, inputs(states), strict=True)))
        after = _stacked(candidates, body.graph.outputs[first : first + len(states)], [0] * len(states))
        grown = [new if old == SHARED else old for old, new in zip(states, after, strict=True)]
        if grown == states:
            return candidates, states
        states = grown


def _stacked(candidates: Candidates, names: Sequence[str], axes: Sequence[int]) -> list[Layout]:
    """The layouts of a body's outputs, with the model axis before these axes."""
    return [
        STACKED(axis) if name in candidates.mapped else SHARED for name, axis in zip(names, axes, strict=True)
    ]


def _behind_models(axes: Sequence[int], layouts: Sequence[Layout]) -> list[int]:
    """The scanned axes in the merged values, where all but axis 0 stand behind the model axis."""
    return [axis + (axis > 0 and layout != SHARED) for axis, layout in zip(axes, layouts, strict=True)]


def _inputs(node: Node, attr: str) -> list[str]:
    return [value.name for value in node.attrs[attr].input]


def _axes(node: Node, attr: str, ranks: Sequence[int]) -> list[int]:
    axes = node.attrs.get(attr) or [0] * len(ranks)
    return [axis + rank if axis < 0 else axis for axis, rank in zip(axes, ranks, strict=True)]


def _any_size(kind: ValueType) -> ValueType:
    """The type of a state: it may change its sizes from one iteration to the next, not its rank."""
    return kind if kind.dims is None else replace(kind, dims=(None,) * len(kind.dims))


def _without(value: ValueType, axis: int) -> ValueType:
    dims = value.dims or ()
    return replace(value, dims=dims[:axis] + dims[axis + 1 :])
