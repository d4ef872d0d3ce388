"""Graph inputs and outputs of a family: their number, their types, and the dims that all sources accept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnx import TensorProto, TypeProto

from netfuse_onnx.errors import Mismatch, NotEquivalent
from netfuse_onnx.load import opset
from netfuse_onnx.ops import kinds
from netfuse_onnx.types import Edge, Source, ValueType

HINT = "Export all models from the same code, with the same inputs and the same dynamic axes."


def check_counts(sources: Sequence[Source]) -> None:
    """Raise NotEquivalent where the sources do not have equally many inputs, and equally many outputs."""
    first = sources[0]
    for other in sources[1:]:
        for noun, ours, theirs in (
            ("input", first.graph.inputs, other.graph.inputs),
            ("output", first.graph.outputs, other.graph.outputs),
        ):
            if len(ours) == len(theirs):
                continue
            rows = [(first.path, ours, theirs), (other.path, theirs, ours)]
            extra = [f"'{n}' is only in {path}" for path, here, there in rows for n in here if n not in there]
            names = f": {', '.join(extra[:4])}" if extra else ""
            count = f"{len(ours)} {noun}{'' if len(ours) == 1 else 's'}"
            raise NotEquivalent(
                f"{first.path} has {count} and {other.path} has {len(theirs)}{names}.",
                HINT,
                Mismatch(noun, (first.path, other.path), left=str(len(ours)), right=str(len(theirs))),
            )


def operators(source: Source) -> Counter[str]:
    """Count the operators of the main graph."""
    return Counter(node.key for node in source.graph.nodes)


def surely_different(one: Source, other: Source) -> bool:
    """Return True for two sources that can't match: their operators differ, and both are at one opset that
    needs no conversion. False says nothing."""
    converted = one.opsets == other.opsets and one.opsets.get("", 0) >= opset.TARGET
    return converted and operators(one) != operators(other)


def common(sources: Sequence[Source], edges: Sequence[Edge]) -> Source:
    """Return the first source, its inputs narrowed to what all sources accept.

    A dim that is static in any source is static; symbols keep the first source's names. Raises NotEquivalent
    where element types, ranks or static sizes differ.
    """
    first = sources[0]
    types = dict(first.graph.types)
    for other, edge in zip(sources[1:], edges[1:], strict=True):
        for name, twin in edge.inputs.items():
            mine, its = types.get(name, ValueType()), other.graph.types.get(twin, ValueType())
            if reason := contradiction(mine, its):
                sentence, left, right = reason
                also = "" if name == twin else f" ('{twin}' in the second)"
                raise NotEquivalent(
                    f"{first.path} and {other.path} differ in graph input '{name}'{also}: it "
                    f"{sentence.format(left, right)}.",
                    HINT,
                    Mismatch("input", (first.path, other.path), value=name, left=left, right=right),
                )
            types[name] = kinds.accepted(mine, its)
    return first.with_graph(types=types)


def narrowings(sources: Sequence[Source], names: Sequence[str], edges: Sequence[Edge]) -> tuple[str, ...]:
    """Return a sentence for every dim of an input that is static in some sources only."""
    first = sources[0].graph.inputs
    twins = [edge.inputs for edge in edges]
    sentences = []
    for name in first:
        types = [s.graph.types.get(t[name], ValueType()) for s, t in zip(sources, twins, strict=True)]
        shapes = [
            (value_type.dims, model)
            for value_type, model in zip(types, names, strict=True)
            if value_type.dims
        ]
        for axis in range(min((len(dims) for dims, _ in shapes), default=0)):
            fixed = [(dims[axis], model) for dims, model in shapes if isinstance(dims[axis], int)]
            if fixed and len(fixed) < len(shapes):
                open_ = next(dims[axis] for dims, _ in shapes if not isinstance(dims[axis], int))
                dimension = f"dimension {open_!r}" if open_ else f"dimension {axis}"
                size, model = fixed[0]
                sentences.append(
                    f"Input {name}: {dimension} is {size} in {model}, so it is {size} in the merged model."
                )
    return tuple(sentences)


def contradiction(mine: ValueType, its: ValueType) -> tuple[str, str, str] | None:
    """Return why no value has both types, as `has rank {} and rank {}` and the two sides, or None."""
    if type_text(mine) != type_text(its):
        return "is {} and {}", type_text(mine), type_text(its)
    if mine.proto is not None or mine.dims is None or its.dims is None:
        return None
    if len(mine.dims) != len(its.dims):
        return "has rank {} and rank {}", str(len(mine.dims)), str(len(its.dims))
    for axis, (a, b) in enumerate(zip(mine.dims, its.dims, strict=True)):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            return f"has size {{}} and size {{}} on axis {axis}", str(a), str(b)
    return None


def type_text(value_type: ValueType) -> str:
    """Return `tensor(float)` or `sequence(tensor(float))`."""
    if value_type.proto is not None:
        return _proto_text(value_type.proto)
    return f"tensor({TensorProto.DataType.Name(value_type.dtype).lower()})"


def _proto_text(proto: TypeProto) -> str:
    match proto.WhichOneof("value"):
        case "tensor_type":
            return type_text(ValueType(proto.tensor_type.elem_type))
        case "sequence_type":
            return f"sequence({_proto_text(proto.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({_proto_text(proto.optional_type.elem_type)})"
        case "map_type":
            key = type_text(ValueType(proto.map_type.key_type))
            return f"map({key},{_proto_text(proto.map_type.value_type)})"
        case other:
            return str(other)
