"""The inputs and outputs of one model in the words of the Open Inference Protocol, for servers.

The protocol (github.com/kserve/open-inference-protocol) names a type FP32 or BYTES, and writes -1 for a size
that is free. It has no sequences, maps or optionals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx.runtime.elements import Element
from netfuse_onnx.runtime.ports import File, Port

DATATYPES = {
    "bool": "BOOL", "str": "BYTES",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
"""The protocol's name of each element type that it has, by the name in `Element`."""
FREE = -1
"""The size that stands for any."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model: its own name, the protocol's type, and its shape, batch included.

    `datatype` is '' for a type that the protocol lacks, and `element` None for what is no tensor. `shape` is
    None where the rank is not known. `rows` is True where the first axis is the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    rows: bool
    element: Element | None


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of one model, by its own names, in the order of the merge.

    `batched` is True where a request may have several rows, and `apart` where each row's outputs depend on
    that row alone. `alike` is False where not every model has each output.
    """

    model: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batched: bool
    apart: bool
    alike: bool = True


def signature(file: File, place: int, *, apart: bool) -> Signature:
    """Return the signature of the model at a place of the merge order."""
    return Signature(
        file.models[place], _tensors(file.inputs, place), _tensors(file.outputs, place),
        batched=bool(file.batch), apart=apart, alike=all(map(all, (port.own for port in file.outputs))),
    )  # fmt: skip


def _tensors(ports: Sequence[Port], place: int) -> tuple[Tensor, ...]:
    return tuple(_tensor(port, place) for port in ports if port.own[place])


def _tensor(port: Port, place: int) -> Tensor:
    dims = port.dims[place]
    shape = None if dims is None else tuple(dim if isinstance(dim, int) else FREE for dim in dims)
    datatype = DATATYPES.get(port.element.name, "") if port.element else ""
    return Tensor(port.own[place], datatype, shape, port.rows, port.element)
