"""Checks of a file as it was read, before anything interprets it: whether what it declares is possible at
all.

Later stages, and onnx's own C++ code, trust types, counts and versions; some values end the process there. So
this pass refuses what no valid model can hold, in one sentence. onnx.checker can't do it: the tensors hold no
values yet, and its messages often do not name the node. Checked elsewhere: the values of tensors and their
location (storage/external.py), names, operators, their counts and attributes (scope.py).
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
from netfuse_onnx.load.constants import AGAIN, DENSE_LIMIT
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
"""The element types that keys of maps may have."""
MOST_ELEMENTS = 2**48
"""The largest number of elements of a declared shape: sizes and their products stay far inside 64 bits."""
DEEPEST = 8
"""The largest depth of nested types. A sequence of maps of tensors has three."""
MOST_INLINED = 1_000_000
"""The largest number of nodes after all functions are inlined."""
TYPE_NAMES = ("to", "dtype", "output_dtype", "output_datatype")
"""The integer attributes of the standard's operators that hold an element type."""

_FIELDS = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
}


def check(model: ModelProto, path: str) -> None:
    """Raise FileFault where a file declares something impossible."""
    _Check(path).model(model)


class _Check:
    """The checks of one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.opset = 0
        self.dense_bytes = 0  # what the sparse tensors so far take when written out

    def fault(self, what: str, hint: str = AGAIN) -> FileFault:
        """Return the error for this file."""
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
        self._inlined({(f.domain, f.name): f for f in model.functions}, model.graph)

    # ------------------------------------------------------------------ versions

    def _versions(self, model: ModelProto) -> None:
        if not 0 <= model.ir_version < 2**31:
            raise self.fault(f"the IR version {model.ir_version} does not exist")
        for entry in model.opset_import:
            domain = schemas.canonical(entry.domain)
            version = f"opset {entry.version}" if not domain else f"version {entry.version} of {domain}"
            if not 0 <= entry.version < 2**31:
                raise self.fault(f"it imports {version}, which does not exist")
            if domain in schemas.STANDARD and entry.version > newest(domain):
                raise self.fault(
                    f"it imports {version}, and the newest that the installed onnx knows is {newest(domain)}",
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
        """Refuse a sparse tensor that is not valid, or too large together with those before it."""
        name, sizes = sparse.values.name, list(sparse.dims)
        types = sparse.values.data_type, sparse.indices.data_type
        if any(size < 0 for size in sizes) or types[0] not in BITS or types[1] != TensorProto.INT64:
            raise self.fault(f"the sparse tensor '{name}' of shape {_short(sizes)} is not valid")
        stored = (nbytes(part.data_type, part.dims) for part in (sparse.values, sparse.indices))
        self.dense_bytes += max(nbytes(types[0], sizes), *stored)
        if self.dense_bytes > DENSE_LIMIT:
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
        """Refuse a body whose numbers of inputs and outputs are not those that its operator passes."""
        expected = _body_counts(node, self.opset)
        if expected is None or attribute not in ("then_branch", "else_branch", "body"):
            return
        counts = zip((len(body.input), len(body.output)), expected, ("inputs", "outputs"), strict=True)
        for count, needed, noun in counts:
            if count != needed:
                raise self.fault(
                    f"the body '{attribute}' of {label(node)} has {count} {noun}, it needs {needed}"
                )

    # ------------------------------------------------------------------ types

    def _type(self, proto: TypeProto, where: str, depth: int) -> None:
        if depth > DEEPEST:
            raise self.fault(f"{where} has a type nested more than {DEEPEST} levels deep")
        which = proto.WhichOneof("value")
        if which in ("tensor_type", "sparse_tensor_type"):
            self._tensor(getattr(proto, which), where)
        elif which in ("sequence_type", "optional_type"):
            self._type(getattr(proto, which).elem_type, where, depth + 1)
        elif which == "map_type":
            if proto.map_type.key_type not in KEYS:
                raise self.fault(f"{where} is a map whose keys are of type {proto.map_type.key_type}")
            self._type(proto.map_type.value_type, where, depth + 1)
        elif which is None and depth > 1:
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

    def _inlined(self, functions: dict[tuple[str, str], FunctionProto], graph: GraphProto) -> None:
        """Refuse functions that call themselves, or that double without end when inlined."""
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
    """Return False for a string that is not UTF-8. The standard's operators have only words as strings."""
    try:
        return attribute.type != AttributeProto.STRING or attribute.s.decode() is not None
    except UnicodeDecodeError:
        return False


def _out_of_range(node: NodeProto, attribute: AttributeProto) -> bool:
    """Return True for values that end the process in onnx's inference (1.23), which does not check them. They
    were found by trying numbers and lists of all sizes as all attributes of all operators."""
    if attribute.type == AttributeProto.INT and attribute.name in ("axis", "batch_dims"):
        least = 0 if node.op_type == "GatherND" else -MOST_AXES
        return not least <= attribute.i <= MOST_AXES
    if node.op_type == "Einsum" and attribute.name == "equation":
        return not re.fullmatch(rb"[A-Za-z,.> -]*", attribute.s)
    return False


def _names_no_type(attribute: AttributeProto) -> bool:
    """Return True for an attribute that should hold an element type and does not; `output_dtype` may be 0."""
    if attribute.type != AttributeProto.INT or attribute.name not in TYPE_NAMES:
        return False
    return attribute.i not in ELEMENTS and bool(attribute.i or not attribute.name.startswith("output"))


def _typed(proto: TypeProto) -> bool:
    """Return True where a type is declared."""
    which = proto.WhichOneof("value")
    return bool(proto.tensor_type.elem_type) if which == "tensor_type" else which is not None


def _opset(holder: ModelProto | FunctionProto) -> int:
    """Return the imported version of the default domain, 0 where there is none."""
    return max((e.version for e in holder.opset_import if not schemas.canonical(e.domain)), default=0)


def _body_counts(node: NodeProto, opset: int) -> tuple[int, int] | None:
    """Return the numbers of inputs and outputs of each body of an operator; None where unknown."""
    inputs, outputs = len(node.input), len(node.output)
    if node.op_type == "If":
        return 0, outputs
    if node.op_type == "Loop":
        return max(inputs, 2), outputs + 1
    if node.op_type == "Scan":  # that of opset 8 has the lengths of its sequences before all else
        return inputs - (opset < 9), outputs
    return (inputs, outputs) if node.op_type == "SequenceMap" else None


def _short(sizes: list[int]) -> str:
    """Return the sizes as text, the first eight only."""
    return str(sizes) if len(sizes) < 9 else f"{str(sizes[:8])[:-1]}, ...]"
