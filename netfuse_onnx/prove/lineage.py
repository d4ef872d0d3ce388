"""Collects what each output descends from, as far as its comparison depends on it: the least precise float
type on the way, random operators, weights that differ between the models, graph inputs, an activation of
known scale, a final rounding, or the scores that an index output selects by."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer
from netfuse_onnx.ops import traits
from netfuse_onnx.types import Correspondence, Graph, Node

QUANTISED = ("QuantizeLinear", "DynamicQuantize", "QLinear", "ConvInteger", "MatMulInteger", "MatMulNBits")
BOUNDED = frozenset({"Sigmoid", "Softmax", "HardSigmoid", "Tanh", "Erf", "Softsign", "Sin", "Cos"})
"""Activations that are computed to an absolute error, so that tiny outputs have no relative accuracy."""
KEEPS_BOUNDS = frozenset({"Mul", "Max", "Min"})
"""Operators whose output is bounded where all their inputs are."""
ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinear")
PRECISION = {10: 2, 16: 3, 1: 1, 11: 0} | dict.fromkeys((17, 18, 19, 20, 23, 24), 4)
"""onnx.TensorProto.DataType -> its imprecision, as an index into NAMES."""
NAMES = ("float64", "float32", "float16", "bfloat16", "8-bit")


@dataclass(frozen=True, slots=True)
class Scores:
    """An index output is the arg-max (or top k) of `value` along `axis`."""

    value: str
    axis: int
    keepdims: bool
    top: bool  # TopK: indices along the axis; else one index


@dataclass(frozen=True, slots=True)
class Lineage:
    """`precision` is a key of compare.BY_PRECISION. `own`: a weight or an attribute that differs between the
    models takes part; `inputs`: the graph inputs that do."""

    precision: str = "float32"
    random: bool = False
    rounded: bool = False
    bounded: bool = False
    scores: Scores | None = None
    own: bool = True
    inputs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Traits:
    """Properties that a value inherits from its producer's inputs. `rank` indexes NAMES; -1 is no float."""

    rank: int = -1
    random: bool = False
    bounded: bool = False
    own: bool = False
    inputs: frozenset[str] = frozenset()


def family_lineages(family: Correspondence) -> Mapping[str, Lineage]:
    """Return the lineage of every output of a family, by the first source as its file is. The weights and
    inputs that take part are those that still do after the rewrites."""
    if family.tails:
        return _of_tails(family)
    differing = {name for name, parts in family.weights.items() if len(parts) > 1}
    differing |= {out for index in family.attrs for out in family.graph.nodes[index].outputs}
    parts = lineages(family.graph, differing)
    return {
        name: replace(line, random=line.random and part.random, own=part.own, inputs=part.inputs)
        for name, line in source_lineages(family, 0).items()
        for part in (parts[name],)
    }


def _of_tails(family: Correspondence) -> Mapping[str, Lineage]:
    """Return the lineage of every output of a family with tails: the most careful of those of the models that
    have it. All weights and inputs count as taking part."""
    found: dict[str, Lineage] = {}
    for model in range(family.models):
        lines = source_lineages(family, model)
        for name, own in family.edge(model).outputs.items():
            line = replace(lines[own], own=True, inputs=frozenset(family.graph.inputs))
            found[name] = _both(found[name], line) if name in found else line
    return found


def _both(one: Lineage, other: Lineage) -> Lineage:
    return replace(
        one,
        precision=max(one.precision, other.precision, key=NAMES.index),
        random=one.random or other.random,
        rounded=one.rounded and other.rounded,
        bounded=one.bounded and other.bounded,
        scores=one.scores or other.scores,
    )


def quantises(op: str) -> bool:
    """True for an operator that computes on quantised values, or makes them."""
    return any(mark in op for mark in QUANTISED)


def source_lineages(family: Correspondence, model: int) -> Mapping[str, Lineage]:
    """The lineage of every output of one source, by its own names, from the graph in its file: so no rewrite
    of the compiler, wrong or right, changes the tolerance of an output."""
    return lineages(infer(unclaimed(family.loaded[model])).graph)


def coarsened(lines: Mapping[str, Lineage], precisions: Mapping[str, str]) -> Mapping[str, Lineage]:
    """The lineages, each with the less precise of its own type and that of `precisions`."""
    found: dict[str, Lineage] = {}
    for name, line in lines.items():
        worst = max(line.precision, precisions.get(name, line.precision), key=NAMES.index)
        found[name] = replace(line, precision=worst)
    return found


def lineages(graph: Graph, differing: Set[str] = frozenset()) -> Mapping[str, Lineage]:
    """Return the lineage of every graph output. `differing` names the weights that differ between the models,
    and the outputs of nodes whose attributes do."""
    made = {out: node for node in graph.nodes for out in node.outputs}
    traits = {name: _Traits(_own(graph, name), own=name in differing) for name in graph.weights}
    traits |= {name: _Traits(_own(graph, name), inputs=frozenset({name})) for name in graph.inputs}
    for node in graph.nodes:
        above = [traits.get(name, _Traits()) for name in node.reads if name]
        worst = max((trait.rank for trait in above), default=-1)
        if quantises(node.op):
            worst = NAMES.index("8-bit")
        random = _random(graph, node) or any(trait.random for trait in above)
        own = any(trait.own for trait in above) or not differing.isdisjoint(node.outputs)
        inputs = frozenset[str]().union(*(trait.inputs for trait in above))
        bounded = _bounded(node, traits)
        for out in node.outputs:
            traits[out] = _Traits(max(worst, _own(graph, out)), random, bounded, own, inputs)
    result = {}
    for out in graph.outputs:
        trait, maker = traits.get(out, _Traits()), made.get(out)
        result[out] = Lineage(
            precision=NAMES[trait.rank] if trait.rank >= 0 else "float32",
            random=trait.random,
            rounded=maker is not None and maker.op.startswith(ROUNDING),
            bounded=trait.bounded,
            scores=_scores(made, out),
            own=trait.own,
            inputs=trait.inputs,
        )
    return result


def _own(graph: Graph, name: str) -> int:
    typed = graph.weights.get(name) or graph.types.get(name)
    return PRECISION.get(typed.dtype, -1) if typed else -1


def _random(graph: Graph, node: Node) -> bool:
    """True for a random node, whatever its seed: a merged graph may draw in another order. Bodies count."""
    if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2]:
        flag = graph.weights.get(node.inputs[2])
        return flag is None or flag.data != b"\0"
    return traits.random(node)


def _bounded(node: Node, above: Mapping[str, _Traits]) -> bool:
    """True where a node gives bounded values: it is a bounded activation, moves or concatenates such values,
    or multiplies only such values."""
    marks = [above[name].bounded for name in node.inputs if name in above]
    if traits.of(node.op).moves or node.op == "Cast":
        return bool(marks) and marks[0]
    if node.op in KEEPS_BOUNDS:
        return bool(marks) and all(marks)
    return node.op in BOUNDED or (node.op == "Concat" and any(marks))


def _scores(made: Mapping[str, Node], name: str) -> Scores | None:
    """Follow casts back to the ArgMax, ArgMin or TopK that produces an output; None where there is none."""
    value, node = name, made.get(name)
    while node is not None and node.op in ("Cast", "Identity"):
        value = node.inputs[0]
        node = made.get(value)
    if node is None:
        return None
    if node.op in ("ArgMax", "ArgMin"):
        axis, keep = int(node.attrs.get("axis", 0)), bool(node.attrs.get("keepdims", 1))
        return Scores(node.inputs[0], axis, keep, top=False)
    if node.op == "TopK" and len(node.outputs) > 1 and value == node.outputs[1]:
        return Scores(node.inputs[0], int(node.attrs.get("axis", -1)), keepdims=True, top=True)
    return None
