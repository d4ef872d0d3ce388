"""Keys of measured times: text that is equal exactly where the same nodes would be measured.

A key has what a person looks for, the operator, the lowering, the models and the shapes, and a digest by
which it is told apart: of the nodes that are emitted, the types of all that they read and write, and the
numbers on which their time may depend. Names, and the values of large weights, are not in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.counting import Counted, CountingEmitter, Step
from netfuse_onnx.emit.repeat import SMALL
from netfuse_onnx.layouts import Layout
from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.plan.account import Accounts
from netfuse_onnx.storage import weights
from netfuse_onnx.tune.cases import Case, ConversionCase, Member, NodeCase
from netfuse_onnx.tune.probes import converted
from netfuse_onnx.types import ValueType, Weight

REACHES = tuple(1 << n for n in range(20, 27))
"""The sizes in bytes that are told apart: what caches hold, and more than one holds."""

Number = Callable[[Any], int]
"""The number of a tensor: equal for one that is the same."""


def reach(held: int) -> int:
    """The least of REACHES for a family that holds so many bytes of weights."""
    return next((size for size in REACHES if held <= size), REACHES[-1])


class Keys:
    """Makes the keys of a family, each once. '' is that of a case whose sizes are not all known. `reach`: the
    bytes of weights that go by before the same come again: those of small families stay in a cache."""

    def __init__(self, accounts: Accounts, reach: int = 0) -> None:
        self.accounts, self.reach = accounts, reach
        self._conversions: dict[Any, str] = {}
        self._nodes: dict[Any, tuple[Any, str]] = {}

    def of(self, case: Case) -> str:
        if isinstance(case, NodeCase):
            return self._of_nodes(case)
        about = case.src, case.dst, case.declared.dtype, case.declared.dims, case.sized.dims, case.compare
        if about not in self._conversions:
            self._conversions[about] = _key(case, _of_conversion(case)) if _is_sized([case.sized]) else ""
        return self._conversions[about]

    def _of_nodes(self, case: NodeCase) -> str:
        """Lowerings that share their account and sizes share their key."""
        used = [self.accounts.of(member.lowering) for member in case.members]
        names = _numbered()
        wiring = [[names(name) for name in _names(member)] for member in case.members]
        types = [[(kind.dtype, kind.dims) for kind in _kinds(member)] for member in case.members]
        about = str((list(map(id, used)), wiring, types))
        if about not in self._nodes:
            known = all(_is_sized(_kinds(member)) for member in case.members)
            parts = _of_chain(case, [(account.steps, account.ports) for account in used])
            reach = f", weights by {self.reach >> 20} MiB" if _has_weights(case) else ""
            self._nodes[about] = used, _key(case, parts, reach) if known else ""
        return self._nodes[about][1]


def _names(member: Member) -> tuple[str, ...]:
    node = member.sized.node
    return (*node.inputs, *node.outputs)


def _kinds(member: Member) -> tuple[ValueType, ...]:
    """The types of the inputs and outputs that are present."""
    every = zip(_names(member), (*member.sized.inputs, *member.sized.outputs), strict=True)
    return tuple(kind for name, kind in every if name)


def _is_sized(types: Sequence[ValueType]) -> bool:
    return all(kind.dims is not None and all(isinstance(dim, int) for dim in kind.dims) for kind in types)


def _numbered() -> Number:
    numbers: dict[Any, int] = {}
    return lambda thing: numbers.setdefault(thing, len(numbers))


# --------------------------------------------------------------------------- text


def _has_weights(case: NodeCase) -> bool:
    """True where weights are large enough for it to matter if they come from a cache."""
    stored = (part for member in case.members for parts in member.lowering.site.parts for part in parts)
    return any(weights.nbytes(part) > SMALL for part in stored)


def _key(case: Case, parts: Iterator[Any], reach: str = "") -> str:
    digest = hashlib.sha256()
    for part in (sorted(case.opsets.items()), *parts):
        digest.update(repr(part).encode())
    return f"{_label(case)}{reach} #{digest.hexdigest()[:32]}"


def _label(case: Case) -> str:
    if isinstance(case, ConversionCase):
        return f"{case.src} to {case.dst}, {case.models} models, {_sizes([case.sized])}"
    lowering = case.head.lowering
    takes = ", ".join(str(layout or "-") for layout in lowering.takes)
    gives = ", ".join(map(str, lowering.gives))
    nodes = " + ".join(member.lowering.site.node.key for member in case.members)
    shapes = _sizes(case.head.sized.inputs)
    return f"{nodes} {shapes}, {case.models} models, {case.head.way}: {takes} -> {gives}"


def _sizes(types: Sequence[ValueType]) -> str:
    return " ".join("x".join(map(str, kind.dims or ())) or "1" for kind in types)


# --------------------------------------------------------------------------- what is in a digest


def _of_chain(case: NodeCase, accounts: Sequence[tuple[Sequence[Step], Any]]) -> Iterator[Any]:
    """Yields all that decides the time of a chain."""
    number, names = _numbered(), _numbered()
    for member, (steps, ports) in zip(case.members, accounts, strict=True):
        yield member.lowering.became, [names(name) for name in _names(member)]
        sized = (*member.sized.inputs, *member.sized.outputs)
        for (held, layout), kind in zip(ports, sized, strict=True):
            dims = layout.merged_dims(kind.dims or (), case.models)
            yield [number(x) for x in held], kind.dtype, dims, [x.stored for x in held]
        yield from (_step(step, number) for step in steps)
        yield from (_elements(parts) for parts in member.lowering.site.parts)
        yield [sorted(map(str, attrs.items())) for attrs in member.lowering.site.attrs]


def _of_conversion(case: ConversionCase) -> Iterator[Any]:
    """Yields all that decides the time of a conversion."""
    emit = CountingEmitter(case.models, case.opsets.get("", 1), case.provider)
    emit.begin({})
    number = _numbered()

    def made(layout: Layout, count: int) -> Any:
        dims = layout.merged_dims(case.declared.dims or (), case.models)
        values = tuple(emit.value(ValueType(case.declared.dtype, dims)) for _ in range(max(count, 1)))
        return values if count else values[0]

    converted(case, emit, made, lambda held, layout: None)
    yield str(case.src), case.declared.dtype, case.src.merged_dims(case.sized.dims or (), case.models)
    yield from (_step(step, number) for step in emit.steps)


def _step(step: Step, number: Number) -> Any:
    """A node with its attributes, its constants, and the types of the weights that it reads."""
    inputs = [None if x is None else (number(x), x.stored, x.type.dtype, _constant(x)) for x in step.inputs]
    weights_read = [x.type.dims for x in step.inputs if x is not None and x.stored]
    attrs = sorted((name, _attribute(value)) for name, value in step.attrs.items())
    return step.op, step.domain, attrs, inputs, weights_read, [number(x) for x in step.outputs]


def _attribute(value: Any) -> str:
    return repr(value.SerializeToString(deterministic=True) if hasattr(value, "SerializeToString") else value)


def _constant(x: Counted) -> bytes:
    if isinstance(x.value, np.ndarray):
        return x.value.tobytes()
    return _unnamed(x.value) if isinstance(x.value, TensorProto) else b""


def _unnamed(constant: TensorProto) -> bytes:
    copy = TensorProto.FromString(constant.SerializeToString())
    copy.ClearField("name")
    return bytes(copy.SerializeToString(deterministic=True))


def _elements(parts: Sequence[Weight]) -> bytes:
    """The numbers of a weight on which a kernel's time may depend: indices, and single numbers, where they
    are the same for all models."""
    if len(parts) != 1 or parts[0].dtype == TensorProto.STRING:
        return b""
    decides = math.prod(parts[0].shape) == 1 or parts[0].dtype in INDEX_TYPES
    return b"".join(weights.blocks(parts[0])) if decides else b""
