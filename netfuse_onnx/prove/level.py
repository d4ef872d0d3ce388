"""Chooses the optimisations of ONNX Runtime under which a file is proven.

They are all of them, with one exception. A file for CUDA is often proven on a machine without CUDA. There,
ONNX Runtime makes operators on bytes of DequantizeLinear, operator and QuantizeLinear, and some of them
refuse the scales of a merged graph, one for each model, or round at other places. CUDA has none of these
operators: the groups stay as they are. So they do in such a proof too, in the sources as in the merged model.
"""

from __future__ import annotations

from dataclasses import replace

from netfuse_onnx.ops import walk
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.storage import wire

FUSIONS_OF_BYTES = (
    "QDQSelectorActionTransformer", "MatMulIntegerToFloatFusion", "DynamicQuantizeMatMulFusion"
)  # fmt: skip
"""ONNX Runtime's names of the optimisers that make operators on bytes. They do so on the CPU alone
(onnxruntime/core/optimizer/graph_transformer_utils.cc)."""

QUANTISED = frozenset({"DequantizeLinear", "MatMulInteger"})
"""The operators with which every group begins that these optimisers fuse."""


def leaving_out_fusions(options: Options, path: str) -> Options:
    """The options of a proof of the file at `path`, with a runtime that leaves out the fusions which the
    provider that it was merged for lacks."""
    runtime = options.runtime
    if options.made_for != "cuda" or runtime.provider == "cuda":
        return options
    if not any(node.op_type in QUANTISED for node in walk.nodes(wire.scan(path).model.graph)):
        return options
    return replace(options, runtime=replace(runtime, left_out=FUSIONS_OF_BYTES))
