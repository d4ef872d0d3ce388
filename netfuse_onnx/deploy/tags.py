"""The graphs that stand before a routed file: each gives the index of one model, once for every row.

`x [n, ..] -> index [n, 1]`, from the shape of the first input.
"""

from __future__ import annotations

import itertools
from typing import Any

from netfuse_onnx.deploy import configs
from netfuse_onnx.deploy.family import Endpoint, Family
from netfuse_onnx.errors import UsageFault

INDEX = "index"
"""The output of such a graph."""
OPSET, IR_VERSION = 13, 8
TYPES = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BF16": "BFLOAT16", "BYTES": "STRING"}
"""ONNX's names of types where they are not the protocol's."""


def name(found: Family, one: Endpoint) -> str:
    """Return the name of an endpoint's graph in the repository. Raises UsageFault where it is taken."""
    said = f"{one.name}.index"
    if said in {found.name, *(other.name for other in found.endpoints)}:
        raise UsageFault(f"The endpoint {said!r} has a name that the export needs.", "Rename it: --endpoint.")
    return said


def config(found: Family, one: Endpoint) -> Any:
    """Return the configuration of an endpoint's graph."""
    m = configs.schema()
    first = one.inputs[0]
    made = m.ModelConfig(name=name(found, one), backend="onnxruntime", max_batch_size=configs.MOST_ROWS)
    shape = configs.outer(found, first.shape)[1:]
    made.input.add(name=first.name, data_type=configs.kind_of(first), dims=shape)
    made.output.add(name=_output(first.name), data_type=m.TYPE_INT64, dims=[1])
    made.instance_group.add(count=1, kind=m.ModelInstanceGroup.KIND_CPU)
    return made


def graph(found: Family, one: Endpoint, place: int) -> bytes:
    """Return the model that gives `place` for every row of an endpoint's first input."""
    from onnx import TensorProto, helper

    first = one.inputs[0]
    shape = ["rows", *(None if size < 0 else size for size in configs.outer(found, first.shape)[1:])]
    kind = TensorProto.DataType.Value(TYPES.get(first.datatype, first.datatype))
    constant = helper.make_tensor("value", TensorProto.INT64, [1], [place])
    nodes = [
        helper.make_node("Shape", [first.name], ["netfuse/shape"]),
        helper.make_node("Slice", ["netfuse/shape", "netfuse/0", "netfuse/1"], ["netfuse/rows"]),
        helper.make_node("Concat", ["netfuse/rows", "netfuse/1"], ["netfuse/sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["netfuse/sizes"], [_output(first.name)], value=constant),
    ]
    ends = [helper.make_tensor(f"netfuse/{end}", TensorProto.INT64, [1], [end]) for end in (0, 1)]
    made = helper.make_graph(
        nodes, "index", [helper.make_tensor_value_info(first.name, kind, shape)],
        [helper.make_tensor_value_info(_output(first.name), TensorProto.INT64, ["rows", 1])], ends,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString())


def step(found: Family, one: Endpoint) -> Any:
    """Return the first step of an endpoint: its rows' index."""
    first = one.inputs[0].name
    return configs.step(name(found, one), {first: first}, {_output(first): _inner(one)})


def routed_step(found: Family, one: Endpoint) -> Any:
    """Return the second step of an endpoint: the routed file."""
    inputs = {family.name: own.name for family, own in zip(found.inputs, one.inputs, strict=True)}
    outputs = {family.name: own.name for family, own in zip(found.outputs, one.outputs, strict=True)}
    return configs.step(found.name, {**inputs, found.index: _inner(one)}, outputs)


def _output(first: str) -> str:
    return INDEX if first != INDEX else f"netfuse/{INDEX}"


def _inner(one: Endpoint) -> str:
    """Return the ensemble's name of the index, which no input or output of the endpoint has."""
    taken = {port.name for port in (*one.inputs, *one.outputs)}
    return next(said for k in itertools.count() if (said := f"{'netfuse/' * k}{INDEX}") not in taken)
