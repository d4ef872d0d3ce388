"""All text of a model is UTF-8: protobuf gives what is not as bytes, which are no names to anybody else.

Found here, once, such text isn't taken for our bug later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.ops import walk

_NESTED = ("sequence_type", "optional_type")


def check(model: ModelProto, path: str) -> None:
    """Raise FileFault where a name or another text is not UTF-8."""
    try:
        "".join(_model(model))
    except (TypeError, UnicodeDecodeError) as error:
        raise FileFault(
            f"{path} is not a valid ONNX model: a name is not UTF-8 text.",
            "The model is damaged: export it again.",
        ) from error


def _model(model: ModelProto) -> list[str]:
    found = [model.producer_name, model.producer_version, model.domain, model.doc_string]
    found += [entry.domain for entry in model.opset_import]
    _entries(model.metadata_props, found)
    _graph(model.graph, found)
    for function in model.functions:
        _function(function, found)
    return found


def _function(function: FunctionProto, found: list[str]) -> None:
    found += (function.name, function.domain, function.doc_string, getattr(function, "overload", ""))
    found += (*function.input, *function.output, *function.attribute)
    found += [entry.domain for entry in function.opset_import]
    _values(getattr(function, "value_info", ()), found)
    _attributes(function.attribute_proto, found)
    _nodes(function.node, found)


def _graph(graph: GraphProto, found: list[str]) -> None:
    found += (graph.name, graph.doc_string)
    for values in (graph.input, graph.output, graph.value_info):
        _values(values, found)
    _tensors(graph.initializer, found)
    for sparse in graph.sparse_initializer:
        _tensors((sparse.values, sparse.indices), found)
    _entries(getattr(graph, "metadata_props", ()), found)
    _nodes(graph.node, found)


def _nodes(nodes: Iterable[NodeProto], found: list[str]) -> None:
    for node in nodes:
        found += (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
        if attributes := node.attribute:
            _attributes(attributes, found)
        if entries := getattr(node, "metadata_props", ()):
            _entries(entries, found)


def _attributes(attributes: Iterable[Any], found: list[str]) -> None:
    for attribute in attributes:
        found += (attribute.name, attribute.ref_attr_name, attribute.doc_string)
        if attribute.HasField("t"):
            _tensors((attribute.t,), found)
        if attribute.HasField("tp"):
            _type(attribute.tp, found)
        for graph in walk.graphs_of(attribute):
            _graph(graph, found)


def _values(values: Iterable[ValueInfoProto], found: list[str]) -> None:
    for value in values:
        found += (value.name, value.doc_string)
        _type(value.type, found)


def _type(proto: TypeProto, found: list[str]) -> None:
    found.append(proto.denotation)
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        found += [dim.dim_param for dim in proto.tensor_type.shape.dim]
    elif kind == "map_type":
        _type(proto.map_type.value_type, found)
    elif kind in _NESTED:
        _type(getattr(proto, kind).elem_type, found)


def _tensors(tensors: Iterable[TensorProto], found: list[str]) -> None:
    for tensor in tensors:
        found += (tensor.name, tensor.doc_string)
        if entries := tensor.external_data:
            _entries(entries, found)


def _entries(entries: Iterable[Any], found: list[str]) -> None:
    for entry in entries:
        found += (entry.key, entry.value)
