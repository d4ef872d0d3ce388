"""Requests and answers of the protocol as HTTP bodies: JSON, with tensors as lists or as bytes behind it.

The extension for binary tensors (github.com/triton-inference-server/server, protocol/extension_binary_data):
a header says how long the JSON is; the tensors follow in its order, and the JSON has the size of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.runtime.errors import BadInput
from netfuse_onnx.runtime.signature import Tensor
from netfuse_onnx.runtime.types import Array
from netfuse_onnx.server import tensors
from netfuse_onnx.server.endpoints import VERSION, Endpoint, Named, Parameters, taken

JSON_SIZE = b"inference-header-content-length"
SLICE = 2048
"""Elements of an output that are written as JSON at a time: in about a millisecond."""
LATER = '"data":null'
"""Stands for the elements of a large output until they are written. Quotes in strings have a backslash."""
UNSERVED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(slots=True)
class Asked:
    """One request as it came: `wanted` has the outputs that it names, with True for those that are to be
    binary; where it names none, all are given, and binary if `binary` is True."""

    id: str
    parameters: Parameters
    feeds: dict[str, Array]
    wanted: dict[str, bool] | None
    binary: bool


def parsed(raw: bytes | memoryview) -> dict[str, Any]:
    """Return the JSON object of a request. Raises BadInput."""
    try:
        found = json.loads(bytes(raw))
    except (ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise BadInput(f"The request is no JSON: {said}.") from None
    if not isinstance(found, dict):
        raise BadInput("The JSON of the request is no object.")
    return found


def decode(endpoint: Endpoint, body: bytes, header: int | None) -> Asked:
    """Return the request that a body holds, of which the first `header` bytes are JSON; None: all.
    Raises BadInput."""
    view = memoryview(body)
    if header is not None and not 0 <= header <= len(body):
        raise BadInput(f"The JSON of the request is said to have {header} of its {len(body)} bytes.")
    said = parsed(body if header is None else view[:header])
    rest = view[len(body) if header is None else header :]
    parameters = _object(said, "parameters")
    given = said.get("inputs")
    if not isinstance(given, list):
        raise BadInput("The request has no list of inputs.")
    feeds = dict[str, Array]()
    for one in given:
        name, value, rest = _input(endpoint, one, rest)
        if name in feeds:
            raise tensors.bad(endpoint.name, name, "is there twice")
        feeds[name] = value
    if rest:
        raise BadInput(f"The request has {len(rest)} bytes after its last input.")
    binary = parameters.get("binary_data_output") is True
    return Asked(str(said.get("id", "")), parameters, feeds, _wanted(endpoint, said, binary), binary)


def _object(said: dict[str, Any], name: str) -> dict[str, Any]:
    found = said.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadInput(f"The {name} of the request are no object.")
    for key, value in found.items():
        if isinstance(value, dict | list) or value is None:
            raise BadInput(f"The parameter {key[:80]!r} is no text, number or truth value.")
    return found


def _input(endpoint: Endpoint, one: Any, rest: memoryview) -> tuple[str, Array, memoryview]:
    """Return the name and value of an input, and the bytes that follow its own."""
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise BadInput("An input of the request is no object with a name.")
    name: str = one["name"]
    tensor = taken(endpoint, name, one.get("datatype"))
    shape = tensors.shape_of(endpoint.name, name, one.get("shape"))
    parameters = _object(one, "parameters")
    for parameter in UNSERVED:
        if parameter in parameters:
            raise tensors.bad(endpoint.name, name, "is in shared memory, which this server does not read")
    size = parameters.get("binary_data_size")
    if size is not None and "data" in one:
        raise tensors.bad(endpoint.name, name, "has data in the JSON and behind it: it may have one of them")
    if size is None:
        return name, tensors.from_list(endpoint.name, tensor, shape, one.get("data")), rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise tensors.bad(endpoint.name, name, f"is said to have {str(size)[:20]} of {len(rest)} bytes")
    return name, tensors.from_raw(endpoint.name, tensor, shape, rest[:size]), rest[size:]


def _wanted(endpoint: Endpoint, said: dict[str, Any], binary: bool) -> dict[str, bool] | None:
    """Return the outputs that a request names, with True for those that are to be binary."""
    given = said.get("outputs")
    if not given:
        return None
    if not isinstance(given, list):
        raise BadInput("The outputs of the request are no list.")
    wanted = dict[str, bool]()
    for one in given:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise BadInput("An output of the request is no object with a name.")
        check_output(endpoint, one["name"])
        parameters = _object(one, "parameters")
        if parameters.get("classification") or any(word in parameters for word in UNSERVED):
            said_ = f"Output {one['name']!r} is wanted as classes or in shared memory, which are not served."
            raise BadInput(said_, model=endpoint.name)
        is_binary = parameters.get("binary_data", binary)
        if not isinstance(is_binary, bool):
            raise BadInput(
                f"The parameter 'binary_data' of output {one['name']!r} is neither true nor false."
            )
        wanted[one["name"]] = is_binary
    return wanted


def check_output(endpoint: Endpoint, name: str) -> None:
    """Raise BadInput for an output that the model does not have."""
    if name not in endpoint.gives:
        expected = ", ".join(endpoint.gives)
        said = f"Model {endpoint.name!r} has no output {name[:80]!r}."
        raise BadInput(said, f"It gives {expected}.", model=endpoint.name, expected=expected)


def chosen(outputs: Named, wanted: dict[str, bool] | None) -> Named:
    """Return the outputs that were asked for, in the order of the request."""
    if wanted is None:
        return outputs
    known = {tensor.name: (tensor, value) for tensor, value in outputs}
    return [known[name] for name in wanted if name in known]


def is_binary(asked: Asked) -> bool:
    """Return True where all outputs are to be binary."""
    return asked.binary if asked.wanted is None else all(asked.wanted.values())


def encode(endpoint: Endpoint, asked: Asked, outputs: Named) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the size of its JSON where bytes follow it."""
    told: list[dict[str, Any]] = []
    parts: list[bytes] = []
    large: Named = []
    for tensor, value in chosen(outputs, asked.wanted):
        one: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": value.shape}
        if asked.binary if asked.wanted is None else asked.wanted[tensor.name]:
            raw = tensors.to_raw(value)
            one["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            one["data"] = tensors.to_flat(tensor, value) if value.size <= SLICE else None
            if value.size > SLICE:
                large.append((tensor, value))
        told.append(one)
    answer: dict[str, Any] = {"model_name": endpoint.name, "model_version": VERSION}
    if asked.id:
        answer["id"] = asked.id
    answer["outputs"] = told
    text = json.dumps(answer, separators=(",", ":"))
    head = (_filled(text, large) if large else text).encode()
    return (b"".join((head, *parts)), len(head)) if parts else (head, None)


def _filled(text: str, large: Named) -> str:
    """Return the JSON of an answer with the elements of large outputs in place of null. The encoder keeps
    all other threads waiting, so that it is given a few elements at a time."""
    first, *others = text.split(LATER)
    found = [first]
    for (tensor, value), rest in zip(large, others, strict=True):
        flat = value.reshape(-1)
        slices = (tensors.to_flat(tensor, flat[at : at + SLICE]) for at in range(0, flat.size, SLICE))
        data = ",".join(json.dumps(one, separators=(",", ":"))[1:-1] for one in slices)
        found += ('"data":[', data, "]", rest)
    return "".join(found)


def described(tensor: Tensor) -> dict[str, Any]:
    """Return an input or output as the metadata of a model has it."""
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape or (-1,))}


def has_text(endpoint: Endpoint) -> bool:
    """Return True where inputs may be strings, which are read one by one."""
    return any(one.datatype == "BYTES" for one in endpoint.takes.values())


def rows_of(feeds: Mapping[str, Array]) -> int:
    """Return the rows of a request that was answered, for statistics."""
    shape = next((value.shape for value in feeds.values()), ())
    return shape[0] if shape and shape[0] else 1
