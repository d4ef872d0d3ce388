"""Operators of the standard on which onnx's own inference (1.23) gives up, though the rank can be told.

`corrected` changes the skeleton that is inferred from, never a graph that is merged: such a node is put into
a domain of ours, whose shape functions shapes.py lends to onnx.
"""

from __future__ import annotations

from onnx import ModelProto

from netfuse_onnx.ops.shapes import UNKNOWN, Call, Kinds, every_node, shape
from netfuse_onnx.types import ValueType

DOMAIN = "netfuse"
REDUCERS = (
    *(f"Reduce{name}" for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2")),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)
COMPUTED = {*REDUCERS, "Squeeze"}
"""Operators whose second input may be axes that are computed."""


def corrected(model: ModelProto) -> None:
    """Change the nodes of a skeleton, those of bodies included, whose axes are computed: a run would tell the
    rank for those that happen to be drawn, twice the same one, say."""
    stored = {"", *(tensor.name for tensor in model.graph.initializer)}
    for node in every_node(model.graph):
        computed = node.op_type in COMPUTED and len(node.input) > 1 and node.input[1] not in stored
        if computed and not node.domain:
            node.domain = DOMAIN
    model.opset_import.add(domain=DOMAIN, version=1)


@shape(*(f"{DOMAIN}.{op}" for op in REDUCERS))
def _reduced(call: Call) -> Kinds:
    return [_open(call, len(call.dims(0)))] if call.attr("keepdims", 1) else _squeezed(call)


@shape(f"{DOMAIN}.Squeeze")
def _squeezed(call: Call) -> Kinds:
    (count,) = call.dims(1, 1)
    if not isinstance(count, int) or not count:  # without axes it may be none of them or all
        return [UNKNOWN]
    return [_open(call, len(call.dims(0)) - count)]


def _open(call: Call, rank: int) -> ValueType:
    return ValueType(call.kind(0).dtype, (None,) * rank)
