"""Attention nodes of the merged graph whose values have a last axis that inference knows.

Where it does not, onnx infers 0 for the last axis of the result, and ONNX Runtime computes with that when it
loads the file (gaps.VALUES_UNSIZED). A Reshape that copies nothing says the size.

This is no pass of rewrite/: the models' own graphs tell the size, conversions of layouts lose it.
"""

from __future__ import annotations

from netfuse_onnx.emit.emitter import Emitter

ROWS_RANK, VALUES = 3, 2


def size_values(emit: Emitter) -> None:
    """Say the size of the values of each Attention that takes them as rows [B, T, H*size]."""
    for node in [node for node in emit.graph.nodes if node.op == "Attention" and not node.domain]:
        values = node.inputs[VALUES]
        dims = emit.kind(values).dims or ()
        if len(dims) != ROWS_RANK or not isinstance(dims[-1], int):
            continue
        emit.scope = node.name
        node.inputs[VALUES] = emit("Reshape", values, emit.const([0, 0, dims[-1]]))
        nodes = emit.graph.nodes
        place = next(k for k, other in enumerate(nodes) if other is node)
        nodes.insert(place, nodes.pop())
