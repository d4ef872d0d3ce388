"""The passes over the emitted graph, in order.

A pass that looks at the models' own graph alone belongs in rewrite/, before the plan. These can't stand
there: each says why.
"""

from __future__ import annotations

from collections.abc import Callable

from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.lower.emitted.attention import size_values
from netfuse_onnx.lower.emitted.dequantize import correct_dequantize
from netfuse_onnx.lower.emitted.gelu import reorder_gelu

PASSES: tuple[Callable[[Emitter], None], ...] = (correct_dequantize, reorder_gelu, size_values)


def rewrite_emitted(emit: Emitter) -> None:
    """Apply all passes to the graph, or the body, that `emit` built."""
    for apply in PASSES:
        apply(emit)
