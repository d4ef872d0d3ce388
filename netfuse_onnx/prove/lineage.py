"""What an output descends from, as far as it matters for comparing it: the least precise float type on
the way, random operators, an activation of known scale, a final rounding, or the scores that an index
output selects by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.types import Graph, Node

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
QUANTISED = ("QuantizeLinear", "DynamicQuantize", "QLinear", "ConvInteger", "MatMulInteger", "MatMulNBits")
BOUNDED = frozenset({"Sigmoid", "Softmax", "HardSigmoid", "Tanh", "Erf", "Softsign", "Sin", "Cos"})
"""Activations computed to an absolute error: where all of them are tiny, tiny is no scale."""
MOVING = frozenset(
    {"Cast", "Identity", "Transpose", "Reshape", "Slice", "Gather", "Squeeze", "Unsqueeze", "Split"}
)
ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinear")
PRECISION = {10: 2, 16: 3, 1: 1, 11: 0} | dict.fromkeys((17, 18, 19, 20, 23, 24), 4)
"""onnx.TensorProto.DataType -> rank of its imprecision."""
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
    """`precision` is a key of compare.BY_PRECISION."""

    precision: str = "float32"
    random: bool = False
    rounded: bool = False
    bounded: bool = False
    scores: Scores | None = None


def lineages(graph: Graph) -> Mapping[str, Lineage]:
    """The lineage of every graph output."""
    made = {out: node for node in graph.nodes for out in node.outputs}
    traits: dict[str, tuple[int, bool]] = {}
    for name in (*graph.inputs, *graph.weights):
        traits[name] = (_own(graph, name), False)
    for node in graph.nodes:
        above = [traits.get(name, (-1, False)) for name in node.reads if name]
        worst = max((rank for rank, _ in above), default=-1)
        if any(mark in node.op for mark in QUANTISED):
            worst = NAMES.index("8-bit")
        random = _random(graph, node) or any(chance for _, chance in above)
        for out in node.outputs:
            traits[out] = (max(worst, _own(graph, out)), random)
    found = {}
    for out in graph.outputs:
        rank, random = traits.get(out, (-1, False))
        maker = made.get(out)
        rounded = maker is not None and maker.op.startswith(ROUNDING)
        precision = NAMES[rank] if rank >= 0 else "float32"
        found[out] = Lineage(precision, random, rounded, _bounded(made, out), _scores(made, out))
    return found


def _own(graph: Graph, name: str) -> int:
    if name in graph.weights:
        return PRECISION.get(graph.weights[name].dtype, -1)
    kind = graph.types.get(name)
    return PRECISION.get(kind.dtype, -1) if kind else -1


def _random(graph: Graph, node: Node) -> bool:
    """Random whatever its seed: a merged graph may draw in another order. Bodies are looked into."""
    if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2]:
        flag = graph.weights.get(node.inputs[2])
        return flag is None or flag.data != b"\0"
    bodies = [a for a in node.attrs.values() if hasattr(a, "node") and hasattr(a, "initializer")]
    return node.op in RANDOM or any(_random_body(body) for body in bodies)


def _random_body(body: Any) -> bool:
    return any(
        node.op_type in RANDOM or any(_random_body(a.g) for a in node.attribute if a.HasField("g"))
        for node in body.node
    )


def _bounded(made: Mapping[str, Node], name: str) -> bool:
    node = made.get(name)
    while node is not None and node.op in MOVING:
        node = made.get(node.inputs[0])
    return node is not None and node.op in BOUNDED


def _scores(made: Mapping[str, Node], name: str) -> Scores | None:
    """Through casts back to the ArgMax, ArgMin or TopK that made an output."""
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
