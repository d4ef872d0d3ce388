"""A source's normal form as an onnx.ModelProto again, for tools that read one. No bytes of large weights are
read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, helper

from netfuse_onnx.ops import kinds
from netfuse_onnx.ops.schemas import facts
from netfuse_onnx.storage import external, weights
from netfuse_onnx.types import Extent, Node, Source, ValueType


def model(source: Source, *, values: Iterable[str] = (), places: bool = False) -> ModelProto:
    """Return the skeleton model: inputs, outputs, nodes, small weights. `values` get their type declared.

    Large weights become graph inputs of their type: shape inference and the version converter need no more.
    With `places` they are initializers that refer to their bytes, as in the skeleton of a file (wire.scan).
    """
    graph = source.graph
    result = ModelProto(ir_version=max(source.ir_version, 4))
    for domain, version in source.opsets.items():
        result.opset_import.add(domain=domain, version=version)
    target = result.graph
    target.name = graph.name or "graph"
    target.input.extend(kinds.declared(name, graph.types.get(name, ValueType())) for name in graph.inputs)
    for name, weight in graph.weights.items():
        if isinstance(weight.data, Extent) and places:
            tensor = target.initializer.add(name=name, data_type=weight.dtype, dims=weight.shape)
            external.refer(tensor, weight.data)
        elif isinstance(weight.data, Extent):
            target.input.append(kinds.declared(name, kinds.of_weight(weight)))
        else:
            target.initializer.append(weights.proto(weight, name))
    target.output.extend(kinds.declared(name, graph.types.get(name, ValueType())) for name in graph.outputs)
    target.value_info.extend(kinds.declared(name, graph.types[name]) for name in values)
    target.node.extend(node_proto(node, source.opsets) for node in graph.nodes)
    return result


def node_proto(node: Node, opsets: Mapping[str, int]) -> NodeProto:
    """Return the node as ONNX stores it."""
    result = NodeProto(op_type=node.op, domain=node.domain, name=node.name)
    result.input.extend(node.inputs)
    result.output.extend(node.outputs)
    schema = facts(node.op, node.domain, opsets.get(node.domain, 1))
    types = schema.kinds if schema else {}
    result.attribute.extend(attribute(name, value, types.get(name)) for name, value in node.attrs.items())
    return result


def attribute(name: str, value: Any, attribute_type: int | None) -> AttributeProto:
    """Return an attribute from its plain value. `attribute_type` tells the type of an empty list."""
    if isinstance(value, list) and not value:
        type_name = AttributeProto.AttributeType.Name(attribute_type or AttributeProto.INTS)
        return AttributeProto(name=name, type=type_name)
    return helper.make_attribute(name, value, attr_type=attribute_type)
