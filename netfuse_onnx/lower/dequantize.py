"""DequantizeLinear nodes of the merged graph in a form that ONNX Runtime gets right.

What it gets wrong (gaps.ZERO_POINT_LOST) depends on the nodes behind, and a merge puts Reshapes there that
no source has. So this is the last thing done to a graph, whatever rule or lack of one emitted the node:
int8 gets the zero point that it lacks, or loses the 0 that it needn't have; int32, and int8 where neither
helps, is written out. A bias of int32 stays where ONNX Runtime takes it into an operator on bytes.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.emit.stored import stored_number
from netfuse_onnx.run.gaps import MOVED_BEHIND, ZERO_POINT_LOST_BELOW

FLOAT, INT8, INT32 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT32
BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators that ONNX Runtime fuses with a DequantizeLinear of their third input."""


def settle(emit: Emitter) -> None:
    """Rewrite the nodes that need it, in the graph or body that `emit` built."""
    for node in list(emit.graph.nodes):
        if node.op == "DequantizeLinear" and emit.kind(node.inputs[1]).dims in ((), (1,)):
            made = len(emit.graph.nodes)
            emit.scope = node.name
            result = _rewritten(node, emit)
            if result is not None:
                _replace(node, result, made, emit)


def _rewritten(node: gs.Node, emit: Emitter) -> Tensor | None:
    """What takes the node's place; None where it may stay."""
    x, scale, *zero = node.inputs
    dtype = emit.kind(x).dtype
    if dtype == INT32:
        return None if _is_bias(node) else _written_out(node, emit)
    if dtype != INT8:
        return None
    if not zero:
        if not node.domain and emit.opset >= ZERO_POINT_LOST_BELOW:
            return None
        point = emit.filled(0, INT8, [1] * len(emit.kind(scale).dims or ()))
        return emit.node(node.op, [x, scale, point], node.attrs, domain=node.domain or "")[0]
    stored = stored_number(zero[0], emit)
    if stored is None or node.domain or emit.opset < ZERO_POINT_LOST_BELOW:
        return None
    if MOVED_BEHIND.isdisjoint(reader.op for reader in node.outputs[0].outputs):
        return None
    return _written_out(node, emit) if stored else emit.node(node.op, [x, scale], node.attrs)[0]


def _is_bias(node: gs.Node) -> bool:
    readers = node.outputs[0].outputs
    return bool(readers) and all(
        reader.op in BIASED and not reader.domain and reader.inputs[2:] == [node.outputs[0]]
        for reader in readers
    )


def _written_out(node: gs.Node, emit: Emitter) -> Tensor:
    """(x - zero) * scale, the product in float32, as ONNX Runtime's kernels compute it."""
    y, *params = node.inputs
    kind = emit.kind(params[0])
    scale, *zero = (emit.reshape(p, []) if kind.dims else p for p in params)
    if zero and stored_number(params[1], emit) != 0:
        y = emit("Sub", _cast(y, INT32, emit), _cast(zero[0], INT32, emit))
    y = emit("Mul", emit("Cast", y, to=FLOAT), _cast(scale, FLOAT, emit))
    to = node.attrs.get("output_dtype") or kind.dtype
    return y if to == FLOAT else emit("Cast", y, to=to)


def _cast(x: Tensor, to: int, emit: Emitter) -> Tensor:
    return x if emit.kind(x).dtype == to else emit("Cast", x, to=to)


def _replace(node: gs.Node, result: Tensor, made: int, emit: Emitter) -> None:
    """Let the nodes from `made` on stand where `node` does, and the last of them give its output."""
    nodes = emit.graph.nodes
    fresh = nodes[made:]
    del nodes[made:]
    place = next(k for k, other in enumerate(nodes) if other is node)
    nodes[place : place + 1] = fresh
    output = node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    (last,) = result.inputs
    last.outputs.clear()
    last.outputs.append(output)
