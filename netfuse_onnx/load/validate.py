"""One pass over a file as it was read, before anything interprets it: is what it declares possible at all?

Later stages, and onnx's own C++ code, take types, counts and versions as they are; some values end the
process there. So what no valid model can hold is refused here, in one sentence. Checked elsewhere: values of
tensors and where they lie (storage/external.py), names, operators, their counts and attributes (scope.py).
"""

from __future__ import annotations

import functools
import math
import re

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    defs,
)

from netfuse_onnx.errors import FileFault
from netfuse_onnx.load.constants import AGAIN
from netfuse_onnx.load.scope import label
from netfuse_onnx.ops import schemas, walk
from netfuse_onnx.storage.tensors import BITS, MOST_AXES, nbytes

ELEMENTS = frozenset({*BITS, TensorProto.STRING})
KEYS = frozenset(
    {
        TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8,
        TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64, TensorProto.STRING,
    }
)  # fmt: skip
"""Types of the keys of maps."""
DENSE_LIMIT = 1 << 26
"""Bytes that the sparse tensors of a file may unfold to. They are held in memory."""
MOST_ELEMENTS = 2**48
"""Elements that a declared shape may have: sizes and their products stay far inside 64 bits."""
DEEPEST = 8
"""Types within types: a sequence of maps of tensors has three."""
MOST_INLINED = 1_000_000
"""Nodes that the functions of a file may unfold to."""
TYPE_NAMES = ("to", "dtype", "output_dtype", "output_datatype")
"""Integer attributes of the standard's operators that number an element type."""

_FIELDS = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
}


def check(model: ModelProto, path: str) -> None:
    """Raise FileFault where a file declares what can't be."""
    _Check(path).model(model)


class _Check:
    def __init__(self, path: str) -> None:
        self.path = path
        self.opset = 0
        self.unfolded = 0  # bytes that the sparse tensors take when written out

    def fault(self, what: str, hint: str = AGAIN) -> FileFault:
        return FileFault(f"{self.path}: {what}.", hint)

    def model(self, model: ModelProto) -> None:
        self._versions(model)
        constant = {tensor.name for tensor in model.graph.initializer}
        constant |= {sparse.values.name for sparse in model.graph.sparse_initializer}
        for value in model.graph.input:
            if value.name not in constant and not _typed(value.type):
                raise self.fault(f"the graph input '{value.name}' has no type")
        self.opset = _opset(model)
        self._graph(model.graph)
        for function in model.functions:
            self.opset = _opset(function)
            for value in getattr(function, "value_info", ()):  # since onnx 1.18
                self._value(value)
            for node in function.node:
                self._node(node)
        self._unfolded({(f.domain, f.name): f for f in model.functions}, model.graph)

    # ------------------------------------------------------------------ versions

    def _versions(self, model: ModelProto) -> None:
        if not 0 <= model.ir_version < 2**31:
            raise self.fault(f"the IR version {model.ir_version} does not exist")
        for entry in model.opset_import:
            domain = schemas.canonical(entry.domain)
            said = f"opset {entry.version}" if not domain else f"version {entry.version} of {domain}"
            if not 0 <= entry.version < 2**31:
                raise self.fault(f"it imports {said}, which does not exist")
            if domain in schemas.STANDARD and entry.version > newest(domain):
                raise self.fault(
                    f"it imports {said}, and the newest that the installed onnx knows is {newest(domain)}",
                    "Install a newer onnx, or export the model again with an opset that is known.",
                )

    # ------------------------------------------------------------------ graphs

    def _graph(self, graph: GraphProto) -> None:
        for values in (graph.input, graph.output, graph.value_info):
            for value in values:
                self._value(value)
        for sparse in graph.sparse_initializer:
            self._sparse(sparse)
        for node in graph.node:
            if node.attribute:
                self._node(node)

    def _sparse(self, sparse: SparseTensorProto) -> None:
        """Sparse tensors are written out: together they must not take more than one of them may."""
        name, sizes = sparse.values.name, list(sparse.dims)
        kinds = sparse.values.data_type, sparse.indices.data_type
        if any(size < 0 for size in sizes) or kinds[0] not in BITS or kinds[1] != TensorProto.INT64:
            raise self.fault(f"the sparse tensor '{name}' of shape {_short(sizes)} is not valid")
        self.unfolded += nbytes(kinds[0], sizes)
        if self.unfolded > DENSE_LIMIT:
            raise self.fault(
                f"the sparse tensor '{name}' of shape {_short(sizes)} would take, with those before it, more "
                f"than {DENSE_LIMIT >> 20} MiB when written out",
                "Store it as a dense initializer.",
            )

    def _value(self, value: ValueInfoProto) -> None:
        if value.type.WhichOneof("value"):
            self._type(value.type, f"the value '{value.name}'", 1)

    def _node(self, node: NodeProto) -> None:
        standard = schemas.canonical(node.domain) in schemas.STANDARD
        for attribute in node.attribute:
            field = _FIELDS.get(attribute.type)
            if field and not attribute.HasField(field) and not attribute.ref_attr_name:
                raise self.fault(f"the attribute '{attribute.name}' of {label(node)} has no value")
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                self._sparse(attribute.sparse_tensor)
            if attribute.type == AttributeProto.GRAPH:
                self._graph(attribute.g)
                if standard:
                    self._arity(node, attribute.g, attribute.name)
            elif attribute.type == AttributeProto.TYPE_PROTO:
                self._type(attribute.tp, f"the attribute '{attribute.name}' of {label(node)}", 1)
            elif standard and node.op_type != "Constant" and not _is_text(attribute):
                raise self.fault(f"the attribute '{attribute.name}' of {label(node)} is not UTF-8 text")
            elif standard and _out_of_range(node, attribute):
                raise self.fault(
                    f"the attribute '{attribute.name}' of {label(node)} has a value that can't be"
                )
            elif standard and _names_no_type(attribute):
                raise self.fault(f"{label(node)} names the element type {attribute.i}, which does not exist")

    def _arity(self, node: NodeProto, body: GraphProto, attribute: str) -> None:
        """The inputs and outputs of a body are those of its operator."""
        wanted = _body_counts(node, self.opset)
        if wanted is None or attribute not in ("then_branch", "else_branch", "body"):
            return
        counts = zip((len(body.input), len(body.output)), wanted, ("inputs", "outputs"), strict=True)
        for count, want, what in counts:
            if count != want:
                raise self.fault(
                    f"the body '{attribute}' of {label(node)} has {count} {what}, it needs {want}"
                )

    # ------------------------------------------------------------------ types

    def _type(self, proto: TypeProto, where: str, depth: int) -> None:
        if depth > DEEPEST:
            raise self.fault(f"{where} has a type nested more than {DEEPEST} levels deep")
        kind = proto.WhichOneof("value")
        if kind in ("tensor_type", "sparse_tensor_type"):
            self._tensor(getattr(proto, kind), where)
        elif kind in ("sequence_type", "optional_type"):
            self._type(getattr(proto, kind).elem_type, where, depth + 1)
        elif kind == "map_type":
            if proto.map_type.key_type not in KEYS:
                raise self.fault(f"{where} is a map whose keys are of type {proto.map_type.key_type}")
            self._type(proto.map_type.value_type, where, depth + 1)
        elif kind is None and depth > 1:
            raise self.fault(f"{where} is a sequence, map or optional of an unknown type")

    def _tensor(self, tensor: TypeProto.Tensor, where: str) -> None:
        if tensor.elem_type and tensor.elem_type not in ELEMENTS:
            raise self.fault(f"{where} has the element type {tensor.elem_type}, which does not exist")
        dims = tensor.shape.dim
        if len(dims) > MOST_AXES:
            raise self.fault(f"{where} has {len(dims)} axes, more than {MOST_AXES}")
        sizes = [dim.dim_value for dim in dims if dim.dim_value > 0]
        if math.prod(sizes) > MOST_ELEMENTS:
            raise self.fault(f"{where} has the sizes {_short(sizes)}, more elements than any memory holds")

    # ------------------------------------------------------------------ functions

    def _unfolded(self, functions: dict[tuple[str, str], FunctionProto], graph: GraphProto) -> None:
        """Functions must not call themselves, and must not double without end."""
        if not functions:
            return
        sizes: dict[tuple[str, str], int] = {}
        path: set[tuple[str, str]] = set()

        def size(graph: GraphProto | FunctionProto) -> int:
            return sum(called((node.domain, node.op_type)) for node in walk.nodes(graph))

        def called(key: tuple[str, str]) -> int:
            if key not in functions:
                return 1
            if key in path:
                raise self.fault(f"the function '{key[1]}' calls itself")
            if len(path) > 100:
                raise self.fault("its functions call each other more than 100 levels deep")
            if key not in sizes:
                path.add(key)
                sizes[key] = 1 + size(functions[key])
                path.remove(key)
            return sizes[key]

        if size(graph) + sum(map(called, functions)) > MOST_INLINED:
            raise self.fault(f"its functions unfold to more than {MOST_INLINED} nodes")


@functools.cache
def newest(domain: str) -> int:
    """The highest version of a standard domain that the installed onnx knows."""
    return max(s.since_version for s in defs.get_all_schemas_with_history() if s.domain == domain)


def _is_text(attribute: AttributeProto) -> bool:
    """False for a string that is not UTF-8: those of the standard's operators are words."""
    try:
        return attribute.type != AttributeProto.STRING or attribute.s.decode() is not None
    except UnicodeDecodeError:
        return False


def _out_of_range(node: NodeProto, attribute: AttributeProto) -> bool:
    """True for what ends the process in onnx's inference (1.23), which does not look. Found by trying numbers
    and lists of all sizes as all attributes of all operators."""
    if attribute.type == AttributeProto.INT and attribute.name in ("axis", "batch_dims"):
        least = 0 if node.op_type == "GatherND" else -MOST_AXES
        return not least <= attribute.i <= MOST_AXES
    if node.op_type == "Einsum" and attribute.name == "equation":
        return not re.fullmatch(rb"[A-Za-z,.> -]*", attribute.s)
    return False


def _names_no_type(attribute: AttributeProto) -> bool:
    """True for an attribute that should number an element type; `output_dtype` may be 0, which is none."""
    if attribute.type != AttributeProto.INT or attribute.name not in TYPE_NAMES:
        return False
    return attribute.i not in ELEMENTS and bool(attribute.i or not attribute.name.startswith("output"))


def _typed(proto: TypeProto) -> bool:
    kind = proto.WhichOneof("value")
    return bool(proto.tensor_type.elem_type) if kind == "tensor_type" else kind is not None


def _opset(holder: ModelProto | FunctionProto) -> int:
    """The version of the default domain that a model or a function imports, 0 where it imports none."""
    return max((e.version for e in holder.opset_import if not schemas.canonical(e.domain)), default=0)


def _body_counts(node: NodeProto, opset: int) -> tuple[int, int] | None:
    """Inputs and outputs that each body of an operator has; None where it is not known."""
    inputs, outputs = len(node.input), len(node.output)
    if node.op_type == "If":
        return 0, outputs
    if node.op_type == "Loop":
        return max(inputs, 2), outputs + 1
    if node.op_type == "Scan":  # that of opset 8 has the lengths of its sequences before all else
        return inputs - (opset < 9), outputs
    return (inputs, outputs) if node.op_type == "SequenceMap" else None


def _short(sizes: list[int]) -> str:
    return str(sizes) if len(sizes) < 9 else f"{str(sizes[:8])[:-1]}, ...]"
