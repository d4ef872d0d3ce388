"""The names that clients ask for: each model at its own, and the family.

A `Catalog` stands for one generation of files. It is replaced in the event loop's thread together with the
files, and requests are submitted there, so that no request meets two generations.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime import faults
from netfuse_onnx.runtime.errors import ServingError, UnknownModel
from netfuse_onnx.runtime.signature import Signature, Tensor
from netfuse_onnx.runtime.types import Array, Feeds, Outputs
from netfuse_onnx.server.session import Session
from netfuse_onnx.server.waiting import Bridge

VERSION = "1"
"""The version of all models: a reload replaces files, and keeps no old ones at hand."""
Parameters = Mapping[str, Any]
Named = list[tuple[Tensor, Array]]
"""The outputs of a request with what the model says of them."""


class Endpoint(Protocol):
    """A name that requests may be sent to. `takes` and `gives` have its inputs and outputs by name, and
    `also` inputs by name and type that may have several."""

    name: str
    takes: dict[str, Tensor]
    also: dict[tuple[str, str], Tensor]
    gives: dict[str, Tensor]
    platform: str

    async def answer(self, feeds: Feeds, parameters: Parameters, timeout: float | None) -> Named:
        """Return the outputs. All that the request needs is submitted before anything is waited for."""


class Source:
    """One model, under its own name."""

    platform = "onnxruntime_onnx"

    def __init__(self, session: Session, bridge: Bridge, signature: Signature) -> None:
        self.name = signature.model
        self.signature = signature
        self.takes = {one.name: one for one in signature.inputs}
        self.also: dict[tuple[str, str], Tensor] = {}
        self.gives = {one.name: one for one in signature.outputs}
        self._submit, self._bridge = session.submit, bridge

    async def answer(self, feeds: Feeds, parameters: Parameters, timeout: float | None) -> Named:
        """Return the model's outputs."""
        future = self._submit(self.name, feeds, timeout=timeout)
        outputs = future.result() if future.done() else await self._bridge.result(future)
        return named(self.gives, outputs)


def taken(endpoint: Endpoint, name: str, datatype: Any) -> Tensor:
    """Return the input of a name. Raises BadInput where there is none of this name and type."""
    tensor = endpoint.takes.get(name)
    if tensor is not None and tensor.datatype == datatype:
        return tensor
    if tensor is None:
        raise faults.names(endpoint.name, list(endpoint.takes), {**dict.fromkeys(endpoint.takes), name: 0})
    other = endpoint.also.get((name, str(datatype)))
    if other is None:
        given = str(datatype)[:80] or "no type"
        raise faults.type_of(endpoint.name, name, tensor.datatype, given)
    return other


def named(gives: Mapping[str, Tensor], outputs: Outputs) -> Named:
    """Return outputs with what the model says of them."""
    return [(gives[name], value) for name, value in outputs.items()]


class Catalog:
    """All names of one generation of files."""

    def __init__(self, endpoints: Mapping[str, Endpoint], family: str, models: tuple[str, ...]) -> None:
        self.endpoints = dict(endpoints)
        self.family = family
        self.models = models

    def find(self, name: str, version: str = "") -> Endpoint:
        """Return the endpoint of a name. Raises UnknownModel."""
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            raise faults.unknown_model(name, list(self.endpoints))
        if version not in ("", VERSION):
            said = f"Model {name!r} has no version {version[:20]!r}."
            raise UnknownModel(said, f"It has {VERSION}.", model=name, expected=VERSION)
        return endpoint


def refuse_unspeakable(signatures: list[Signature]) -> None:
    """Raise FileFault for a model with an input or output that the protocol has no type for."""
    for signature in signatures:
        for way, tensors in (("Input", signature.inputs), ("Output", signature.outputs)):
            for tensor in tensors:
                if not tensor.datatype:
                    kind = tensor.element.name if tensor.element else "a sequence, map or optional"
                    raise FileFault(
                        f"{way} {tensor.name!r} of model {signature.model!r} is {kind}, which the Open "
                        "Inference Protocol does not have.",
                        "Change that input or output in the model, or serve it in Python with MergedSession.",
                    )


def refuse_clash(name: str, models: tuple[str, ...]) -> None:
    """Raise UsageFault for a family that is named like one of its models."""
    if name in models:
        raise UsageFault(
            f"The family is named {name!r}, as one of its models is.", "Give it another one: --name NAME."
        )


def seconds_of(parameters: Parameters) -> float | None:
    """Return the time in which a request must start, by its parameter `timeout`, which is in microseconds.
    None for none, and for 0, which means the server's own."""
    given = parameters.get("timeout")
    if given is None or given == 0 or given == "0":
        return None
    try:
        micros = int(given)
    except (TypeError, ValueError, OverflowError):
        micros = -1
    if micros < 0:
        raise BadParameter("timeout", given, "a number of microseconds")
    return micros / 1e6


class BadParameter(ServingError):
    """A parameter of a request makes no sense."""

    kind = "bad_parameter"
    http = 400
    grpc = "INVALID_ARGUMENT"

    def __init__(self, name: str, given: object, expected: str) -> None:
        said = f"The parameter {name!r} is {expected}, not {str(given)[:80]!r}."
        super().__init__(said, expected=expected)


def now_ns() -> int:
    """Return the time of the clock that durations are taken from, in nanoseconds."""
    return time.perf_counter_ns()
