"""All text of a model is UTF-8: protobuf gives what is not as bytes, which are no names to anybody else.

Found here, once, such text isn't taken for our bug later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from netfuse_onnx.errors import FileFault

_NESTED = ("sequence_type", "optional_type", "map_type")


def check(model: ModelProto, path: str) -> None:
    """Raise FileFault where a name or another text is not UTF-8."""
    try:
        "".join(_model(model))
    except (TypeError, UnicodeDecodeError) as error:
        raise FileFault(
            f"{path} is not a valid ONNX model: a name is not UTF-8 text.",
            "The model is damaged: export it again.",
        ) from error


def _model(model: ModelProto) -> Iterator[str]:
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string)
    yield from (entry.domain for entry in model.opset_import)
    yield from _entries(model.metadata_props)
    yield from _graph(model.graph)
    for function in model.functions:
        yield from _function(function)


def _function(function: FunctionProto) -> Iterator[str]:
    yield from (function.name, function.domain, function.doc_string)
    yield from (getattr(function, "overload", ""), *function.input, *function.output, *function.attribute)
    yield from (entry.domain for entry in function.opset_import)
    yield from _values(getattr(function, "value_info", ()))
    yield from _attributes(function.attribute_proto)
    yield from _nodes(function.node)


def _graph(graph: GraphProto) -> Iterator[str]:
    yield from (graph.name, graph.doc_string)
    for values in (graph.input, graph.output, graph.value_info):
        yield from _values(values)
    yield from _tensors(graph.initializer)
    for sparse in graph.sparse_initializer:
        yield from _tensors((sparse.values, sparse.indices))
    yield from _entries(getattr(graph, "metadata_props", ()))
    yield from _nodes(graph.node)


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
        if node.attribute:
            yield from _attributes(node.attribute)
        if getattr(node, "metadata_props", ()):
            yield from _entries(node.metadata_props)


def _attributes(attributes: Iterable[Any]) -> Iterator[str]:
    for attribute in attributes:
        yield from (attribute.name, attribute.ref_attr_name, attribute.doc_string)
        if attribute.HasField("t"):
            yield from _tensors((attribute.t,))
        if attribute.HasField("g"):
            yield from _graph(attribute.g)
        if attribute.HasField("tp"):
            yield from _type(attribute.tp)
        for graph in attribute.graphs:
            yield from _graph(graph)


def _values(values: Iterable[ValueInfoProto]) -> Iterator[str]:
    for value in values:
        yield from (value.name, value.doc_string)
        yield from _type(value.type)


def _type(proto: TypeProto) -> Iterator[str]:
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        yield from (dim.dim_param for dim in proto.tensor_type.shape.dim)
    elif kind == "map_type":
        yield from _type(proto.map_type.value_type)
    elif kind in _NESTED:
        yield from _type(getattr(proto, kind).elem_type)
    yield proto.denotation


def _tensors(tensors: Iterable[TensorProto]) -> Iterator[str]:
    for tensor in tensors:
        yield from (tensor.name, tensor.doc_string)
        yield from _entries(tensor.external_data)


def _entries(entries: Iterable[Any]) -> Iterator[str]:
    for entry in entries:
        yield from (entry.key, entry.value)
