"""Graph inputs and outputs of a family: how many, of which types, and which dims all sources accept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto, TypeProto

from netfuse_onnx.errors import Mismatch, NotEquivalent
from netfuse_onnx.ops import kinds
from netfuse_onnx.types import Edge, Source, ValueType

HINT = "Export all models from the same code, with the same inputs and the same dynamic axes."


def counted(sources: Sequence[Source]) -> None:
    """Raises NotEquivalent where the sources have not as many inputs, and as many outputs."""
    first = sources[0]
    for other in sources[1:]:
        for what, ours, theirs in (
            ("input", first.graph.inputs, other.graph.inputs),
            ("output", first.graph.outputs, other.graph.outputs),
        ):
            if len(ours) != len(theirs):
                raise _counts(first, other, what, ours, theirs)


def common(sources: Sequence[Source], edges: Sequence[Edge]) -> Source:
    """The first source, its inputs narrowed to what all sources accept.

    A dim that is static in any source is static; symbols keep the first source's names. Raises
    NotEquivalent where the element types, ranks or static sizes differ.
    """
    first = sources[0]
    types = dict(first.graph.types)
    for other, edge in zip(sources[1:], edges[1:], strict=True):
        for name, twin in edge.inputs.items():
            mine, its = types.get(name, ValueType()), other.graph.types.get(twin, ValueType())
            types[name] = _narrowed(first, other, name, twin, mine, its)
    return replace(first, graph=replace(first.graph, types=types))


def narrowings(sources: Sequence[Source], names: Sequence[str], edges: Sequence[Edge]) -> tuple[str, ...]:
    """A sentence for every dim of an input that is static in some sources only: it is in the merged model."""
    first = sources[0].graph.inputs
    twins = [edge.inputs for edge in edges]
    found = []
    for name in first:
        kinds = [s.graph.types.get(t[name], ValueType()) for s, t in zip(sources, twins, strict=True)]
        known = [(kind.dims, model) for kind, model in zip(kinds, names, strict=True) if kind.dims]
        for axis in range(min((len(dims) for dims, _ in known), default=0)):
            fixed = [(dims[axis], model) for dims, model in known if isinstance(dims[axis], int)]
            if fixed and len(fixed) < len(known):
                open_ = next(dims[axis] for dims, _ in known if not isinstance(dims[axis], int))
                said = f"dimension {open_!r}" if open_ else f"dimension {axis}"
                size, model = fixed[0]
                found.append(
                    f"Input {name}: {said} is {size} in {model}, so it is {size} in the merged model."
                )
    return tuple(found)


def _counts(
    first: Source, other: Source, what: str, ours: Sequence[str], theirs: Sequence[str]
) -> NotEquivalent:
    rows = [(first.path, ours, theirs), (other.path, theirs, ours)]
    extra = [f"'{n}' is only in {path}" for path, here, there in rows for n in here if n not in there]
    said = f": {', '.join(extra[:4])}" if extra else ""
    return NotEquivalent(
        f"{first.path} has {_plural(len(ours), what)} and {other.path} has {len(theirs)}{said}.",
        HINT,
        Mismatch(what, (first.path, other.path), left=str(len(ours)), right=str(len(theirs))),
    )


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _narrowed(
    first: Source, other: Source, name: str, twin: str, mine: ValueType, its: ValueType
) -> ValueType:
    """The type that both accept."""
    if said := unlike(mine, its):
        raise _unlike(first, other, name, twin, *said)
    return kinds.accepted(mine, its)


def unlike(mine: ValueType, its: ValueType) -> tuple[str, str, str] | None:
    """Why no value has both types: `has rank {} and rank {}` and the two sides; None where some may."""
    if kind_text(mine) != kind_text(its):
        return "is {} and {}", kind_text(mine), kind_text(its)
    if mine.proto is not None or mine.dims is None or its.dims is None:
        return None
    if len(mine.dims) != len(its.dims):
        return "has rank {} and rank {}", str(len(mine.dims)), str(len(its.dims))
    for axis, (a, b) in enumerate(zip(mine.dims, its.dims, strict=True)):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            return f"has size {{}} and size {{}} on axis {axis}", str(a), str(b)
    return None


def kind_text(kind: ValueType) -> str:
    """`tensor(float)`, `sequence(tensor(float))`."""
    if kind.proto is not None:
        return _proto_text(kind.proto)
    return f"tensor({TensorProto.DataType.Name(kind.dtype).lower()})"


def _proto_text(proto: TypeProto) -> str:
    match proto.WhichOneof("value"):
        case "tensor_type":
            return kind_text(ValueType(proto.tensor_type.elem_type))
        case "sequence_type":
            return f"sequence({_proto_text(proto.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({_proto_text(proto.optional_type.elem_type)})"
        case "map_type":
            key = kind_text(ValueType(proto.map_type.key_type))
            return f"map({key},{_proto_text(proto.map_type.value_type)})"
        case other:
            return str(other)


def _unlike(
    first: Source, other: Source, name: str, twin: str, said: str, left: str, right: str
) -> NotEquivalent:
    """The error for an input that is not of one type. `said` has a place for each of the sides."""
    also = "" if name == twin else f" ('{twin}' in the second)"
    files = first.path, other.path
    return NotEquivalent(
        f"{files[0]} and {files[1]} differ in graph input '{name}'{also}: it {said.format(left, right)}.",
        HINT,
        Mismatch("input", files, value=name, left=left, right=right),
    )
