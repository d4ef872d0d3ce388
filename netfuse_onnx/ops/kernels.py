"""The kernels that ONNX Runtime has for CUDA.

The table is kernels_cuda.json, which bench/kernels.py reads out of an installed ONNX Runtime. A node for
which it has no row runs on the CPU, with a copy each way. A kernel may still refuse what its registration
does not speak of, such as a zero point that is not a scalar.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from netfuse_onnx.ops import schemas

_TABLE = Path(__file__).with_name("kernels_cuda.json")
_OUTPUT = "out"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One registration: the versions of the operator, and the element types by the place of an input or
    output. A place that is not named takes every type that the operator has."""

    first: int
    last: int | None
    inputs: Mapping[int, frozenset[int]]
    outputs: Mapping[int, frozenset[int]]

    def takes_version(self, since: int) -> bool:
        """True for an operator that was last changed at this opset. ONNX Runtime takes a kernel without a
        last version for the first one alone: nobody knows yet what the next one changes."""
        return self.first == since or (self.last is not None and self.first <= since <= self.last)

    def takes_types(self, inputs: Sequence[int], outputs: Sequence[int]) -> bool:
        """True unless one of these element types is known (not 0) and is none of the kernel's."""
        return all(
            not kind or kind in places.get(place, (kind,))
            for places, kinds in ((self.inputs, inputs), (self.outputs, outputs))
            for place, kind in enumerate(kinds)
        )


def runs_on_cuda(key: str, opset: int, inputs: Sequence[int] = (), outputs: Sequence[int] = ()) -> bool:
    """True where ONNX Runtime has a CUDA kernel for the operator `Conv` or `com.microsoft.FusedConv`.

    `opset` is the version of the operator's domain. `inputs` and `outputs` are element types, numbers of
    TensorProto.DataType; 0 is one that is absent or unknown, which rules nothing out.
    """
    rows = cuda_kernels().get(key, ())
    domain, _, op = key.rpartition(".")
    facts = schemas.facts(op, domain, opset) if rows else None
    since = facts.since if facts else 1  # ONNX Runtime's own operators have one version
    return any(row.takes_version(since) and row.takes_types(inputs, outputs) for row in rows)


@functools.cache
def cuda_kernels() -> Mapping[str, tuple[Kernel, ...]]:
    """All rows, by the key of their operator."""
    rows = json.loads(_TABLE.read_text())["kernels"]
    return {key: tuple(_kernel(*row) for row in some) for key, some in rows.items()}


def _kernel(first: int, last: int | None, types: Mapping[str, str]) -> Kernel:
    inputs, outputs = dict[int, frozenset[int]](), dict[int, frozenset[int]]()
    for places, names in types.items():
        accepted = frozenset(map(_element_type, names.split()))
        for place in places.split():
            into = outputs if place.startswith(_OUTPUT) else inputs
            into[int(place.removeprefix(_OUTPUT))] = accepted
    return Kernel(first, last, inputs, outputs)


def _element_type(name: str) -> int:
    return int(getattr(TensorProto, name.upper(), 0))
