"""Gelu in the order that ONNX Runtime fuses.

torch's dynamo exporter writes Gelu as x * (0.5 * (1 + erf(x / sqrt 2))), which ONNX Runtime leaves in five
parts. It fuses (x * (1 + erf(x / sqrt 2))) * 0.5, as TorchScript's exporter writes it: docs/performance.md.
Halving changes the exponent only, and 1 + erf is 0 or at least 2^-24, so both give the same bits, except
where 2 * x is more than float32 holds.

This is no pass of rewrite/: the fusion takes numbers of rank 0 or 1 alone, and the rank of the numbers
depends on the layout of the values beside them (`[1, 1, 1, 1]` beside CHANNELS), which only the emitted
graph shows.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.emit.stored import stored_number


def reorder_gelu(emit: Emitter) -> None:
    """Swap the two products of each Gelu that is not in the order of the fusion."""
    for node in emit.graph.nodes:
        if node.op == "Erf" and emit.kind(node.inputs[0]).dtype == TensorProto.FLOAT:
            _halve_last(node, emit)


def _halve_last(erf: gs.Node, emit: Emitter) -> None:
    plus = _only_reader(erf, "Add", emit)
    half = plus and _only_reader(plus, "Mul", emit)
    last = half and _only_reader(half, "Mul", emit)
    if not (plus and half and last and erf.inputs[0].inputs):
        return
    constant, x = _other_operand(half, plus), _other_operand(last, half)
    if _number(_other_operand(plus, erf), emit) == 1.0 and _number(constant, emit) == 0.5:
        scaled = erf.inputs[0].inputs[0]
        if scaled.op in ("Div", "Mul") and any(operand is x for operand in scaled.inputs):
            half.inputs = [x, plus.outputs[0]]
            last.inputs = [half.outputs[0], constant]
            for node in (scaled, plus, last):
                node.inputs = [_scalar(value, emit) for value in node.inputs]


def _only_reader(node: gs.Node, op: str, emit: Emitter) -> gs.Node | None:
    """The only node that reads the output of `node`, if its operator is `op`."""
    (value,) = node.outputs
    readers = value.outputs
    alone = len(readers) == 1 and all(value is not out for out in emit.graph.outputs)
    return readers[0] if alone and readers[0].op == op and not readers[0].domain else None


def _other_operand(node: gs.Node, producer: gs.Node) -> Tensor:
    """The operand of a binary node that does not come from `producer`."""
    left, right = node.inputs
    return right if left is producer.outputs[0] else left


def _scalar(value: Tensor, emit: Emitter) -> Tensor:
    """A stored number at rank 0; any other value as it is."""
    number = _number(value, emit)
    return value if number is None else emit.filled(number, TensorProto.FLOAT, ())


def _number(value: Tensor, emit: Emitter) -> float | None:
    """A stored number that all models share; None for anything else."""
    dims = emit.kind(value).dims
    if dims is None or any(dim != 1 for dim in dims):
        return None
    return stored_number(value, emit)
