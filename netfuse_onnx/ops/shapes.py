"""Shape functions for operators that onnx does not know, those of ONNX Runtime above all.

`SHAPES` maps an operator's key to a function from a Call, its input types and attributes, to its output
types; most are "as input 0". `known_to_onnx` lends them to onnx's own inference, which then goes through a
graph in one pass, symbols and computed shapes included. Operators listed here have outputs whose shape
depends on shapes only, never on values.

Sources: the operators' documents in ONNX Runtime (docs/ContribOperators.md) and their CPU kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, TensorProto, TypeProto, defs, helper, shape_inference

from netfuse_onnx.ops import kinds, walk
from netfuse_onnx.ops.kinds import UNKNOWN
from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.types import Dim, ValueType

Kinds = Sequence[ValueType]


@dataclass(frozen=True)
class Call:
    """One use of an operator: what is known of its inputs, and its attributes."""

    inputs: tuple[ValueType, ...]
    attrs: Mapping[str, Any]

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] != UNKNOWN

    def kind(self, i: int) -> ValueType:
        return self.inputs[i] if i < len(self.inputs) else UNKNOWN

    def dims(self, i: int, rank: int | None = None) -> tuple[Dim, ...]:
        """The dims of input i. Raises Unknown where they, or this rank of them, are not there."""
        dims = self.kind(i).dims
        if dims is None or (rank is not None and len(dims) != rank):
            raise Unknown
        return dims

    def attr(self, name: str, default: Any = None) -> Any:
        return self.attrs.get(name, default)


class Unknown(Exception):
    """The shape can't be told."""


Shape = Callable[[Call], Kinds]
SHAPES: dict[str, Shape] = {}


def shape(*ops: str) -> Callable[[Shape], Shape]:
    """Register a shape function for several operators of com.microsoft, or of the domain before a dot."""

    def register(function: Shape) -> Shape:
        keys = [op.removeprefix(".") if "." in op else f"{MICROSOFT}.{op}" for op in ops]
        SHAPES.update(dict.fromkeys(keys, function))
        return function

    return register


# --------------------------------------------------------------------------- helpers


def times(*dims: Dim) -> Dim:
    """The product, where it is known."""
    product = 1
    for dim in dims:
        if not isinstance(dim, int):
            return dims[0] if dims[1:] == (1,) else None
        product *= dim
    return product


def plus(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return a if b == 0 else b if a == 0 else None


def part(whole: Dim, count: int) -> Dim:
    return whole // count if isinstance(whole, int) and count > 0 else None


def broadcast(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """numpy's rule; a size of 1 yields, an unknown one stays unknown beside another."""
    rank = max(map(len, shapes))
    rows = [(1,) * (rank - len(dims)) + tuple(dims) for dims in shapes]
    return tuple(_wider(column) for column in zip(*rows, strict=True))


def _wider(column: Sequence[Dim]) -> Dim:
    wide = [dim for dim in column if dim != 1]
    static = [dim for dim in wide if isinstance(dim, int)]
    if not wide or static:
        return static[0] if static else 1
    return wide[0] if all(dim == wide[0] for dim in wide) else None


def product(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """MatMul's output dims."""
    if not a or not b:
        raise Unknown
    left, right = (1, *a) if len(a) == 1 else tuple(a), (*b, 1) if len(b) == 1 else tuple(b)
    batch = broadcast(left[:-2], right[:-2]) if left[:-2] or right[:-2] else ()
    return (*batch, *(left[-2:-1] if len(a) > 1 else ()), *(right[-1:] if len(b) > 1 else ()))


def swapped(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    return (*dims[:-2], dims[-1], dims[-2])


def moved(dims: Sequence[Dim], *, last: bool) -> tuple[Dim, ...]:
    """Channels from axis 1 to the end, or back."""
    if len(dims) < 2:
        raise Unknown
    return (dims[0], *dims[2:], dims[1]) if last else (dims[0], dims[-1], *dims[1:-1])


def standard(op: str, types: Kinds, attrs: Mapping[str, Any]) -> ValueType:
    """The type that onnx infers for an operator of its own with these inputs."""
    schema = defs.get_schema(op)
    known = {name: attrs[name] for name in schema.attributes if name in attrs}
    names = [f"i{k}" for k in range(len(types))]
    node = helper.make_node(op, names, ["o"], **known)
    declared = {name: kinds.proto(kind) for name, kind in zip(names, types, strict=True)}
    inferred = shape_inference.infer_node_outputs(schema, node, declared)
    return _tensor(inferred.get("o"))


def _tensor(proto: TypeProto | None) -> ValueType:
    """The type of a tensor; what is none is unknown to shape functions."""
    kind = kinds.of_proto(proto)
    return UNKNOWN if kind.proto is not None else kind


# --------------------------------------------------------------------------- lent to onnx

_LOCK = threading.Lock()
_ANY = "any"


@contextmanager
def known_to_onnx(graph: GraphProto) -> Iterator[None]:
    """Within, onnx's inference knows the operators of `graph` that have a shape function.

    onnx's registry is one per process: what is registered is taken out again. An older onnx has no way to
    lend it a function; then nothing happens, and the ranks stay unknown.
    """
    if not hasattr(defs.OpSchema, "set_type_and_shape_inference_function"):
        yield
        return
    with _LOCK:
        lent: list[tuple[str, str]] = []
        try:
            for key in sorted(_keys(graph)):
                domain, _, op = key.rpartition(".")
                try:
                    defs.register_schema(_schema(op, domain, SHAPES[key]))
                except Exception:  # somebody else taught onnx the operator: theirs counts
                    continue
                lent.append((op, domain))
            yield
        finally:
            for op, domain in lent:
                defs.deregister_schema(op, 1, domain)


def _keys(graph: GraphProto) -> set[str]:
    """The operators to lend."""
    return {walk.key(node) for node in walk.nodes(graph)} & SHAPES.keys()


def _schema(op: str, domain: str, function: Shape) -> defs.OpSchema:
    parameter, option = defs.OpSchema.FormalParameter, defs.OpSchema.FormalParameterOption

    def some(name: str) -> list[Any]:
        return [parameter(name, _ANY, "", param_option=option.Variadic, is_homogeneous=False, min_arity=0)]

    types = sorted({str(t) for t in defs.get_schema("Identity").type_constraints[0].allowed_type_strs})
    schema = defs.OpSchema(
        op, domain, 1, inputs=some("i"), outputs=some("o"), type_constraints=[(_ANY, types, "")]
    )
    schema.set_type_and_shape_inference_function(lambda context: _infer(function, context))
    return schema


def _infer(function: Shape, context: Any) -> None:
    """One node: nothing may escape into onnx's loop over the graph."""
    try:
        inputs = tuple(_tensor(context.get_input_type(i)) for i in range(context.get_num_inputs()))
        results = function(Call(inputs, _Attributes(context)))
    except Exception:
        return
    for k, kind in enumerate(results[: context.get_num_outputs()]):
        if kind.dtype:
            context.set_output_type(k, kinds.proto(kind))


class _Attributes(Mapping[str, Any]):
    """The attributes of the node at hand, by name."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getitem__(self, name: str) -> Any:
        attribute: AttributeProto | None = self._context.get_attribute(name)
        if attribute is None:
            raise KeyError(name)
        return onnx.helper.get_attribute_value(attribute)

    def __iter__(self) -> Iterator[str]:
        raise TypeError("onnx does not list a node's attributes")

    def __len__(self) -> int:
        raise TypeError("onnx does not count a node's attributes")


FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32
