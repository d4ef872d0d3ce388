"""Puts the combinations of the models' outputs into the graph of a family, for plan and lower.

An output y that is combined becomes `y/each`, and a node of this compiler's own makes y of it: Mean, Sum or
Vote (rules/combine.py). A vote over floating-point scores reads labels, the ArgMax along the last axis. The
proofs see the family as it was before: what they compare are the sources' own outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx import GraphProto, TensorProto

from netfuse_onnx.errors import NotCombinable
from netfuse_onnx.ops import kinds, traits, walk
from netfuse_onnx.ops.schemas import OWN
from netfuse_onnx.types import Correspondence, Graph, Node, ValueType

OPERATORS = {"mean": "Mean", "sum": "Sum", "vote": "Vote"}
SUMMABLE = frozenset({TensorProto.INT32, TensorProto.INT64})
"""The integers that can be summed: narrower ones would overflow, and ONNX Runtime sums no others."""
HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
REMEDY = "Leave it out of --combine."


def with_combinations(family: Correspondence, share: frozenset[str]) -> Correspondence:
    """Return the family with a node for each combined output. `share`: the inputs that are fed once. Raises
    NotCombinable."""
    for name, how in family.combined.items():
        _refuse(family, name, how)
        family = _combined(family, name, how, alike=share.issuperset(family.graph.inputs))
    return family


def votes_on_scores(kind: ValueType) -> bool:
    """True where a vote reads scores, the label being the place of the highest along the last axis."""
    return kind.dtype in kinds.FLOATS


def _refuse(family: Correspondence, name: str, how: str) -> None:
    """Raise NotCombinable where an output has no such combination."""
    graph, kind = family.graph, family.type_of(name)
    if reason := _unfit(graph, name, kind) or _unfit_for(how, kind):
        raise NotCombinable(f"Output {name!r} has no {how}: {reason}.", REMEDY)
    if name in family.ragged:
        raise NotCombinable(f"Output {name!r} has no {how}: its shape differs between the models.", REMEDY)


def _unfit(graph: Graph, name: str, kind: ValueType) -> str:
    makers = [node for node in graph.nodes if name in node.outputs]
    if kind.proto is not None:
        return "it is not a tensor"
    if name in graph.inputs or not makers:
        return "no operator computes it"
    if traits.random(makers[0]):
        return "it is random"
    if kind.dims is None:
        return "its rank is unknown"
    if kind.dtype == TensorProto.STRING:
        return "it holds strings"
    return "its element type is not known" if not kind.dtype else ""


def _unfit_for(how: str, kind: ValueType) -> str:
    """The reason why values of a type have no such combination, or ''."""
    floats, whole = kind.dtype in kinds.FLOATS, kind.dtype in kinds.INTEGERS
    if how == "vote" and floats:
        last = kind.dims[-1] if kind.dims else 1
        return "it has one score, and a vote needs one for each class" if last == 1 else ""
    if how == "vote":
        return "" if whole and kind.dtype != TensorProto.UINT64 else "its element type holds no labels"
    if floats or (how == "sum" and kind.dtype in SUMMABLE):
        return ""
    if kind.dtype in SUMMABLE:
        return "it holds whole numbers; sum and vote take them"
    return "its element type can't be added up"


def _combined(family: Correspondence, name: str, how: str, *, alike: bool) -> Correspondence:
    """Return the family with one output combined. `alike`: the models read the same inputs."""
    each = _free(family, f"{name}/each")
    family = _renamed(family, name, each)
    graph, kind, types = family.graph, family.type_of(each), dict(family.graph.types)
    nodes, read = list(graph.nodes), each
    if how == "vote" and votes_on_scores(kind):
        if kind.dtype in HALVES:
            read = _free(family, f"{name}/wide")
            nodes.append(_node("Cast", name, each, read, {"to": TensorProto.FLOAT}))
            types[read] = replace(kind, dtype=TensorProto.FLOAT)
        labels = _free(family, f"{name}/labels")
        nodes.append(_node("ArgMax", name, read, labels, {"axis": -1, "keepdims": 0}))
        kind = types[labels] = ValueType(TensorProto.INT64, (kind.dims or ())[:-1])
        read = labels
    nodes.append(_node(OPERATORS[how], name, read, name, {"alike": int(alike)}, OWN))
    types[name] = kind
    declared = dict(family.declared)
    if said := declared.get(name):
        dims = said.dims if said.dims is None or said.rank == kind.rank else said.dims[:-1]
        declared[name] = replace(said, dtype=kind.dtype, dims=dims)
    return replace(family, graph=replace(graph, nodes=tuple(nodes), types=types), declared=declared)


def _node(op: str, name: str, read: str, made: str, attrs: Mapping[str, Any], domain: str = "") -> Node:
    return Node(op, domain, name, (read,), (made,), attrs)


def _free(family: Correspondence, name: str) -> str:
    """The name, or the nearest that no value has."""
    graph = family.graph
    taken = {*graph.inputs, *graph.weights, *(out for node in graph.nodes for out in node.outputs)}
    unique, count = name, 2
    while unique in taken:
        unique, count = f"{name}-{count}", count + 1
    return unique


# --------------------------------------------------------------------------- another name for a value


def _renamed(family: Correspondence, old: str, new: str) -> Correspondence:
    """Return the family whose value `old` is called `new` wherever nodes make or read it."""

    def named(name: str) -> str:
        return new if name == old else name

    def renamed(attrs: Mapping[str, Any]) -> dict[str, Any]:
        return {key: _body(value, old, new) for key, value in attrs.items()}

    def node(one: Node) -> Node:
        if old not in one.reads and old not in one.outputs:
            return one
        ins, outs, captured = (tuple(map(named, names)) for names in (one.inputs, one.outputs, one.captured))
        return replace(one, inputs=ins, outputs=outs, captured=captured, attrs=renamed(one.attrs))

    def moved(values: Mapping[str, Any]) -> dict[str, Any]:
        return {named(name): value for name, value in values.items()}

    graph = family.graph
    types = moved(graph.types)
    if old in graph.types:
        types[old] = graph.types[old]
    return replace(
        family,
        graph=replace(graph, nodes=tuple(map(node, graph.nodes)), types=types),
        attrs={i: tuple(map(renamed, each)) for i, each in family.attrs.items()},
        ragged=frozenset(map(named, family.ragged)),
        believed=moved(family.believed),
        least=moved(family.least),
    )


def _body(value: Any, old: str, new: str) -> Any:
    """A body that reads the value by its new name; any other attribute as it is."""
    if not isinstance(value, GraphProto):
        return value
    copy = GraphProto()
    copy.CopyFrom(value)
    walk.rename(copy, lambda name: new if name == old else name)
    return copy
