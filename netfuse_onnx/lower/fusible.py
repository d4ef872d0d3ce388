"""Patterns of the merged graph in the order that ONNX Runtime's fusions know.

torch's dynamo exporter writes Gelu as x * (0.5 * (1 + erf(x / sqrt 2))), which ONNX Runtime leaves in five
parts. It fuses (x * (1 + erf(x / sqrt 2))) * 0.5, as TorchScript's exporter writes it: docs/performance.md.
Halving changes the exponent only, and 1 + erf is 0 or at least 2^-24, so both give the same bits, but where
twice x is more than float32 holds.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.emit.stored import stored_number


def rearrange(emit: Emitter) -> None:
    """Swap the two products of each such Gelu, in the graph or body that `emit` built."""
    for node in emit.graph.nodes:
        if node.op == "Erf" and emit.kind(node.inputs[0]).dtype == TensorProto.FLOAT:
            _halve_last(node, emit)


def _halve_last(erf: gs.Node, emit: Emitter) -> None:
    plus = _reader(erf, "Add", emit)
    half = plus and _reader(plus, "Mul", emit)
    last = half and _reader(half, "Mul", emit)
    if not (plus and half and last and erf.inputs[0].inputs):
        return
    constant, x = _other(half, plus), _other(last, half)
    if _number(_other(plus, erf), emit) == 1.0 and _number(constant, emit) == 0.5:
        scaled = erf.inputs[0].inputs[0]
        if scaled.op in ("Div", "Mul") and any(each is x for each in scaled.inputs):
            half.inputs = [x, plus.outputs[0]]
            last.inputs = [half.outputs[0], constant]
            for node in (scaled, plus, last):
                node.inputs = [_of_no_rank(value, emit) for value in node.inputs]


def _reader(node: gs.Node, op: str, emit: Emitter) -> gs.Node | None:
    """The one node that reads what a node gives, if it is such an operator."""
    (value,) = node.outputs
    readers = value.outputs
    alone = len(readers) == 1 and all(value is not out for out in emit.graph.outputs)
    return readers[0] if alone and readers[0].op == op and not readers[0].domain else None


def _other(node: gs.Node, known: gs.Node) -> Tensor:
    """The operand of a node of two that another node does not give."""
    left, right = node.inputs
    return right if left is known.outputs[0] else left


def _of_no_rank(value: Tensor, emit: Emitter) -> Tensor:
    """A number as the fusion wants it, whatever the rank that it was given beside other values."""
    number = _number(value, emit)
    return value if number is None else emit.filled(number, TensorProto.FLOAT, ())


def _number(value: Tensor, emit: Emitter) -> float | None:
    """A stored number that all models share; None for anything else."""
    dims = emit.kind(value).dims
    if dims is None or any(dim != 1 for dim in dims):
        return None
    return stored_number(value, emit)
