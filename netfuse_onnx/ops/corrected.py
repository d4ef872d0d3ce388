"""Operators of the standard on which onnx's own inference (1.23) gives up, though rank or sizes can be told,
or which end the process there, or take all memory.

`corrected` changes the skeleton that is inferred from, never a graph that is merged: such a node is put into
a domain of ours, whose shape functions shapes.py lends to onnx.
"""

from __future__ import annotations

import math

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from netfuse_onnx.ops import traits, walk
from netfuse_onnx.ops.axes import REDUCERS
from netfuse_onnx.ops.kinds import UNKNOWN
from netfuse_onnx.ops.schemas import ML
from netfuse_onnx.ops.shapes import Call, Kinds, Unknown, broadcast, part, plus, shape, times
from netfuse_onnx.storage.tensors import MOST_AXES
from netfuse_onnx.types import Dim, ValueType

DOMAIN = "netfuse"
COMPUTED = {*REDUCERS, "Squeeze"}
"""Operators whose second input may be axes that are computed."""
ROWS = ("Scaler", "Normalizer", "Imputer", "LinearRegressor", "SVMRegressor", "FeatureVectorizer",
        "LinearClassifier", "SVMClassifier")  # fmt: skip
"""Operators on tables of which onnx tells nothing, or miscounts the classes."""


FRAGILE = frozenset({"EyeLike", "RegexFullMatch", "DictVectorizer", "LabelEncoder", "TreeEnsemble"})
"""Operators whose inference (onnx 1.23) reads the type of input 0 and does not look if there is one: the
process ends by a signal where an operator that onnx does not know, or refuses, gives that input. Found by
trying all operators."""
MOST_PROPAGATED = 1024
"""Elements of a constant that onnx may compute while it infers. A chain of Concat doubles them."""


def corrected(model: ModelProto) -> None:
    """Change the nodes of a skeleton, those of bodies included, whose axes are computed: a run would tell the
    rank for those that happen to be drawn, twice the same one, say. And Einsum, of which onnx tells the rank
    alone, Attention, which loses symbols, operators on tables, and what onnx must not be given."""
    stored = {"", *(tensor.name for tensor in model.graph.initializer)}
    typed = {value.name for value in model.graph.input if _has_type(value)} | stored
    long = {value.name for value in model.graph.input if _is_long(value)}
    counts = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    for node in walk.nodes(model.graph):
        computed = node.op_type in COMPUTED and len(node.input) > 1 and node.input[1] not in stored
        grows = _grows(node, counts) or _reads_long(node, long)
        untold = (computed or _letters(node) or grows or node.op_type == "Attention") and not node.domain
        fragile = node.op_type in FRAGILE and node.domain in ("", ML)
        if untold or (fragile and node.input[0] not in typed):
            node.domain = DOMAIN
        if node.domain == ML and node.op_type in ROWS:
            node.domain = DOMAIN
    model.opset_import.add(domain=DOMAIN, version=1)


SUMS = ("Add", "Sub", "Mul")
PROPAGATING = frozenset({*SUMS, "Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze"})
"""Operators whose numbers onnx computes as it infers."""
LONG = 1 << 22
"""Numbers, of some 50 bytes each, that onnx may make up for a value with one axis of a known size."""
SHAPED = ("ConstantOfShape", "Expand", "Reshape", "Tile")
"""Operators that read sizes, which onnx makes up where they are a vector of a known length."""


def _is_long(value: ValueInfoProto) -> bool:
    """True for one axis with more numbers than onnx should make up."""
    dims = value.type.tensor_type.shape.dim
    return len(dims) == 1 and dims[0].dim_value > LONG


def _reads_long(node: NodeProto, long: set[str]) -> bool:
    """True for a node that onnx must not be given. `long` gets the outputs that have the same axis."""
    if node.domain:
        return False
    if node.op_type in SHAPED:
        (at,) = traits.of(node.op_type).steered
        return len(node.input) > at and node.input[at] in long
    reads_long = node.op_type in PROPAGATING and not long.isdisjoint(node.input)
    if reads_long:
        long.update(node.output)
    return reads_long


def _has_type(value: ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") is not None


def _grows(node: NodeProto, counts: dict[str, int]) -> bool:
    """True for a Concat of too many constants. `counts`: elements by name, at most, of what onnx computes
    from constants; those of the node's outputs are added."""
    if node.domain:
        return False
    sizes = [counts.get(name, 0) for name in node.input]
    count = sum(sizes) if node.op_type == "Concat" else max(sizes, default=0)
    if node.op_type == "Shape":
        count = MOST_AXES
    grows = node.op_type == "Concat" and count > MOST_PROPAGATED
    counts.update(dict.fromkeys(node.output, count))
    return grows


@shape(*(f"{DOMAIN}.{op}" for op in SUMS))
def _summed(call: Call) -> Kinds:
    return [ValueType(call.kind(0).dtype, broadcast(call.dims(0), call.dims(1)))]


@shape(f"{DOMAIN}.Cast")
def _cast(call: Call) -> Kinds:
    return [ValueType(int(call.attr("to")), call.kind(0).dims)]


@shape(f"{DOMAIN}.Concat")
def _joined(call: Call) -> Kinds:
    rows = [call.dims(i) for i in range(len(call.inputs))]
    axis = int(call.attr("axis")) % len(rows[0])
    if any(len(row) != len(rows[0]) for row in rows):
        raise Unknown
    along = [row[axis] for row in rows]
    sizes = [dim for dim in along if isinstance(dim, int)]
    length = sum(sizes) if len(sizes) == len(along) else None
    return [ValueType(call.kind(0).dtype, (*rows[0][:axis], length, *rows[0][axis + 1 :]))]


@shape(f"{DOMAIN}.EyeLike")
def _eye(call: Call) -> Kinds:
    return [ValueType(int(call.attr("dtype", call.kind(0).dtype)), call.kind(0).dims)]


@shape(f"{DOMAIN}.RegexFullMatch")
def _matched(call: Call) -> Kinds:
    return [ValueType(TensorProto.BOOL, call.kind(0).dims)]


@shape(f"{DOMAIN}.LabelEncoder")
def _encoded(call: Call) -> Kinds:
    """The type is that of the values; before version 2 numbers become text, and text numbers."""
    kind = call.kind(0)
    told = {"strings": TensorProto.STRING, "int64s": TensorProto.INT64, "floats": TensorProto.FLOAT}
    dtype = next((told[key] for key in told if call.attr(f"values_{key}") is not None), 0)
    if tensor := call.attr("values_tensor"):
        dtype = tensor.data_type
    if not dtype and call.attr("classes_strings") is not None:
        dtype = TensorProto.INT64 if kind.dtype == TensorProto.STRING else TensorProto.STRING
    return [ValueType(dtype, kind.dims)]


@shape(f"{DOMAIN}.TreeEnsemble")
def _trees(call: Call) -> Kinds:
    x = call.kind(0)
    return [ValueType(x.dtype, (call.dims(0, 2)[0], call.attr("n_targets")))]


@shape(*(f"{DOMAIN}.{op}" for op in REDUCERS))
def _reduced(call: Call) -> Kinds:
    return [_open(call, len(call.dims(0)))] if call.attr("keepdims", 1) else _squeezed(call)


@shape(f"{DOMAIN}.Squeeze")
def _squeezed(call: Call) -> Kinds:
    (count,) = call.dims(1, 1)
    if not isinstance(count, int) or not count:  # without axes it may be none of them or all
        return [UNKNOWN]
    return [_open(call, len(call.dims(0)) - count)]


@shape(f"{DOMAIN}.Attention")
def _attended(call: Call) -> Kinds:
    """Q [B, S, H*d] with K and V alike, or [B, H, S, d], and caches [B, H', P, d]"""
    query, key, value = (call.dims(i) for i in range(3))
    heads, stored = (int(call.attr(name, 0)) for name in ("q_num_heads", "kv_num_heads"))
    if len(query) == 3:
        query, key, value = (
            (dims[0], count, dims[1], part(dims[2], count))
            for dims, count in ((query, heads), (key, stored), (value, stored))
        )
    past: Dim = call.dims(4, 4)[2] if call.has(4) else 0
    whole = plus(past, key[2])
    result = (*query[:3], value[3])
    if len(call.dims(0)) == 3:
        result = (query[0], query[2], times(value[3], heads))
    dims = result, (*key[:2], whole, key[3]), (*value[:2], whole, value[3]), (*query[:3], whole)
    return [ValueType(call.kind(place).dtype, each) for place, each in zip((0, 1, 2, 0), dims, strict=True)]


@shape(f"{DOMAIN}.Scaler", f"{DOMAIN}.Normalizer")
def _scaled(call: Call) -> Kinds:
    return [ValueType(TensorProto.FLOAT, call.dims(0))]


@shape(f"{DOMAIN}.Imputer")
def _imputed(call: Call) -> Kinds:
    return [call.kind(0)]


@shape(f"{DOMAIN}.LinearRegressor")
def _regressed(call: Call) -> Kinds:
    return [ValueType(TensorProto.FLOAT, (_rows(call), call.attr("targets", 1)))]


@shape(f"{DOMAIN}.SVMRegressor")
def _supported(call: Call) -> Kinds:
    return [ValueType(TensorProto.FLOAT, (_rows(call), 1))]


@shape(f"{DOMAIN}.FeatureVectorizer")
def _vectorized(call: Call) -> Kinds:
    return [ValueType(TensorProto.FLOAT, (_rows(call), sum(call.attr("inputdimensions", ())) or None))]


@shape(f"{DOMAIN}.LinearClassifier", f"{DOMAIN}.SVMClassifier")
def _classified(call: Call) -> Kinds:
    """Labels, then a score per class. How many scores two classes have is up to the runtime's kernel."""
    words = call.attr("classlabels_strings", ())
    classes = len(words or call.attr("classlabels_ints", ()))
    label = TensorProto.STRING if words else TensorProto.INT64
    scores = (_rows(call), classes if classes > 2 and call.attr("intercepts") else None)
    return [ValueType(label, (_rows(call),)), ValueType(TensorProto.FLOAT, scores)]


def _rows(call: Call) -> Dim:
    """A vector is a table of one row."""
    dims = call.dims(0)
    return dims[0] if len(dims) > 1 else 1


def _letters(node: NodeProto) -> bool:
    return node.op_type == "Einsum" and not any(b"." in attr.s for attr in node.attribute)


@shape(f"{DOMAIN}.Einsum")
def _einsum(call: Call) -> Kinds:
    equation = call.attr("equation").decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:
        right = "".join(sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1))
    sizes: dict[str, set[Dim]] = {}
    for i, term in enumerate(left.split(",")):
        for letter, dim in zip(term, call.dims(i, len(term)), strict=True):
            sizes.setdefault(letter, set()).add(dim)
    return [ValueType(call.kind(0).dtype, tuple(_agreed(sizes[letter]) for letter in right))]


def _agreed(dims: set[Dim]) -> Dim:
    """The size of a letter, which may be 1 in one place and another in the next."""
    wide = {dim for dim in dims if isinstance(dim, int) and dim != 1}
    return wide.pop() if len(wide) == 1 else dims.pop() if len(dims) == 1 else None


def _open(call: Call, rank: int) -> ValueType:
    return ValueType(call.kind(0).dtype, (None,) * rank)
