"""Requests and answers of the protocol as protobuf: tensors as raw bytes, or as typed contents."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from netfuse_onnx.runtime.errors import BadInput
from netfuse_onnx.runtime.signature import Tensor
from netfuse_onnx.runtime.types import Array
from netfuse_onnx.server import tensors
from netfuse_onnx.server.endpoints import VERSION, Endpoint, Named, Parameters, taken
from netfuse_onnx.server.http_codec import UNSERVED, check_output

CONTENTS = {
    "BOOL": "bool_contents", "BYTES": "bytes_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
}  # fmt: skip
"""The field of typed contents that has the elements of a type; FP16 and BF16 travel as raw bytes alone."""
WIDE: dict[str, Any] = {
    "bool_contents": np.bool_, "int_contents": np.int32, "int64_contents": np.int64,
    "uint_contents": np.uint32, "uint64_contents": np.uint64, "fp32_contents": np.float32,
    "fp64_contents": np.float64,
}  # fmt: skip
"""The types of the numbers in these fields. Without one, numpy makes floats of whole numbers around 2^63."""


def parameters_of(given: Any) -> Parameters:
    """Return the parameters of a message as Python values."""
    return {name: getattr(one, one.WhichOneof("parameter_choice") or "", None) for name, one in given.items()}


def decode(endpoint: Endpoint, request: Any) -> dict[str, Array]:
    """Return the inputs of a request, which share the memory of its raw bytes. Raises BadInput."""
    feeds = dict[str, Array]()
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        said = f"The request has {len(request.inputs)} inputs, and raw bytes of {len(raws)}."
        raise BadInput(said, model=endpoint.name)
    for place, one in enumerate(request.inputs):
        name = one.name
        tensor = taken(endpoint, name, one.datatype)
        if one.parameters:
            _refuse_unserved(f"Input {name!r}", one.parameters, endpoint)
        if name in feeds:
            raise tensors.bad(endpoint.name, name, "is there twice")
        shape = tensors.shape_of(endpoint.name, name, one.shape)
        if raws:
            if one.HasField("contents"):
                raise tensors.bad(endpoint.name, name, "has typed contents beside raw bytes")
            feeds[name] = tensors.from_raw(endpoint.name, tensor, shape, raws[place])
        else:
            feeds[name] = _typed(endpoint.name, tensor, shape, one.contents)
    return feeds


def _typed(model: str, tensor: Tensor, shape: tuple[int, ...], contents: Any) -> Array:
    """Return the array of typed contents, whose numbers may be wider than the model's type."""
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise tensors.bad(model, tensor.name, f"is {tensor.datatype}, which travels as raw bytes alone")
    values = getattr(contents, field)
    if tensor.datatype == "BYTES":
        return tensors.from_list(model, tensor, shape, [tensors.text(model, tensor.name, v) for v in values])
    assert tensor.element is not None
    dtype = tensor.element.dtype
    wide: Array = np.array(values, WIDE[field])
    if dtype.kind in "iu" and len(values):
        bounds = np.iinfo(dtype)
        if int(wide.min()) < bounds.min or int(wide.max()) > bounds.max:
            raise tensors.bad(model, tensor.name, f"has a number that {tensor.datatype} does not have")
    return tensors.counted(model, tensor, shape, wide.astype(dtype, copy=False))


def wanted(endpoint: Endpoint, request: Any) -> dict[str, bool] | None:
    """Return the outputs that a request names. Raises BadInput for one that the model does not have."""
    if not request.outputs:
        return None
    for one in request.outputs:
        check_output(endpoint, one.name)
        if one.parameters:
            _refuse_unserved(f"Output {one.name!r}", one.parameters, endpoint)
    return {one.name: True for one in request.outputs}


def _refuse_unserved(what: str, parameters: Any, endpoint: Endpoint) -> None:
    given = parameters_of(parameters)
    if given.get("classification") or any(word in given for word in UNSERVED):
        said = f"{what} is wanted as classes or in shared memory, which are not served."
        raise BadInput(said, model=endpoint.name)


def encode(endpoint: Endpoint, id: str, outputs: Named) -> Any:
    """Return the message of an answer, with raw bytes."""
    answer = pb.ModelInferResponse(model_name=endpoint.name, model_version=VERSION, id=id)
    raws = answer.raw_output_contents
    for tensor, value in outputs:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=value.shape)
        raws.append(tensors.to_raw(value))
    return answer
