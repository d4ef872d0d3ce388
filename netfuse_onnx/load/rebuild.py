"""A source's normal form as an onnx.ModelProto again, for tools that want one.

Large weights become graph inputs of their type: shape inference and the version converter need no more,
and no bytes are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, helper

from netfuse_onnx.ops import kinds
from netfuse_onnx.ops.schemas import facts
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Extent, Node, Source, ValueType


def model(source: Source, *, values: Iterable[str] = ()) -> ModelProto:
    """The skeleton model: same inputs, outputs, nodes and small weights; `values` get their type declared."""
    graph = source.graph
    result = ModelProto(ir_version=max(source.ir_version, 4))
    for domain, version in source.opsets.items():
        result.opset_import.add(domain=domain, version=version)
    target = result.graph
    target.name = graph.name or "graph"
    target.input.extend(kinds.declared(name, graph.types.get(name, ValueType())) for name in graph.inputs)
    for name, weight in graph.weights.items():
        if isinstance(weight.data, Extent):
            target.input.append(kinds.declared(name, kinds.of_weight(weight)))
        else:
            target.initializer.append(weights.proto(weight, name))
    target.output.extend(kinds.declared(name, graph.types.get(name, ValueType())) for name in graph.outputs)
    target.value_info.extend(kinds.declared(name, graph.types[name]) for name in values)
    for node in graph.nodes:
        target.node.append(node_proto(node, source.opsets))
    return result


def node_proto(node: Node, opsets: Mapping[str, int]) -> NodeProto:
    """The node as ONNX holds it."""
    result = NodeProto(op_type=node.op, domain=node.domain, name=node.name)
    result.input.extend(node.inputs)
    result.output.extend(node.outputs)
    known = facts(node.op, node.domain, opsets.get(node.domain, 1))
    attribute_types = known.kinds if known else {}
    result.attribute.extend(attribute(k, value, attribute_types.get(k)) for k, value in node.attrs.items())
    return result


def attribute(name: str, value: Any, kind: int | None) -> AttributeProto:
    """An attribute from its plain value. An empty list has no type of its own: `kind` tells it."""
    if isinstance(value, list) and not value:
        kind_name = AttributeProto.AttributeType.Name(kind or AttributeProto.INTS)
        return AttributeProto(name=name, type=kind_name)
    return helper.make_attribute(name, value, attr_type=kind)
