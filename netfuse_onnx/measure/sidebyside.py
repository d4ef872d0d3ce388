"""Writes the models side by side into one graph, with no operator merged, as onnx.compose.merge_models does.

Every name of model m gets the prefix `m/`, the names that bodies capture included, which onnx.compose leaves
alone. Weights are streamed into a data file, so memory does not grow with the models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import onnx
from onnx import GraphProto, ModelProto

from netfuse_onnx.ops import walk
from netfuse_onnx.run.runtime import RunFailed
from netfuse_onnx.storage import moving, wire

DATA = "sidebyside.data"


def sidebyside(paths: Sequence[str], folder: str) -> str:
    """Write the graph into `folder`, and return its path. Raises RunFailed where the models' opsets differ,
    FileFault for files that can't be read."""
    out = ModelProto()
    with open(os.path.join(folder, DATA), "wb") as data:
        for number, path in enumerate(paths):
            model = wire.scan(path).model
            moving.move(model, data, DATA)
            _prefix(model, f"{number}/")
            _add(out, model, path)
    target = os.path.join(folder, "sidebyside.onnx")
    onnx.save_model(out, target)
    return target


def _add(out: ModelProto, model: ModelProto, path: str) -> None:
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if not out.opset_import:
        out.ir_version = model.ir_version
        out.graph.name = "side by side"
        out.opset_import.MergeFrom(model.opset_import)
    elif opsets != {entry.domain or "ai.onnx": entry.version for entry in out.opset_import}:
        raise RunFailed(f"{path} has other opsets than the first model")
    out.ir_version = max(out.ir_version, model.ir_version)
    out.functions.MergeFrom(model.functions)
    for field in ("node", "initializer", "sparse_initializer", "input", "output", "quantization_annotation"):
        getattr(out.graph, field).MergeFrom(getattr(model.graph, field))


def _prefix(model: ModelProto, prefix: str) -> None:
    """Put a prefix before all names but those inside of functions, which are local."""
    called = {(f.domain, f.name): f"{prefix}{f.name}" for f in model.functions}
    for function in model.functions:
        function.name = called[function.domain, function.name]
        for node in walk.nodes(function):
            node.op_type = called.get((node.domain, node.op_type), node.op_type)
    for graph in walk.graphs(model.graph):
        _prefix_graph(graph, prefix, called)


def _prefix_graph(graph: GraphProto, prefix: str, called: Mapping[tuple[str, str], str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = prefix + value.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = prefix + sparse.values.name
    for note in graph.quantization_annotation:
        note.tensor_name = prefix + note.tensor_name
        for entry in note.quant_parameter_tensor_names:
            entry.value = prefix + entry.value
    for node in graph.node:
        node.name = node.name and prefix + node.name
        node.op_type = called.get((node.domain, node.op_type), node.op_type)
        for names in (node.input, node.output):
            names[:] = [prefix + name if name else "" for name in names]
