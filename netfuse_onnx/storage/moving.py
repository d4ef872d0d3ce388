"""Moving the large tensors of a skeleton (wire.scan) into a data file beside a model that will be written."""

from __future__ import annotations

from typing import BinaryIO

from onnx import ModelProto, TensorProto

from netfuse_onnx.storage import external, weights
from netfuse_onnx.storage.tensors import tensors
from netfuse_onnx.types import Extent, Weight

ALIGNED = 4096
"""Weights begin at multiples of so many bytes, so that a runtime can map them."""


def move(model: ModelProto, data: BinaryIO, name: str) -> None:
    """Writes large weights of the main graph to the data file `name`, and puts all others into the model."""
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            place(tensor, weights.weight_of(tensor), data, name)
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL and tensor.external_data[0].value != name:
            tensor.CopyFrom(weights.proto(weights.weight_of(tensor), tensor.name))


def place(tensor: TensorProto, weight: Weight, data: BinaryIO, name: str) -> None:
    """Writes a weight to the data file `name`, and makes the tensor refer to it."""
    data.write(bytes(-data.tell() % ALIGNED))
    external.refer(tensor, Extent(name, data.tell(), weights.nbytes(weight)))
    data.writelines(weights.blocks(weight))
