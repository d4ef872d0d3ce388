"""Operators of the standard on which onnx's own inference (1.23) gives up, though rank or sizes can be told.

`corrected` changes the skeleton that is inferred from, never a graph that is merged: such a node is put into
a domain of ours, whose shape functions shapes.py lends to onnx.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto

from netfuse_onnx.ops.shapes import UNKNOWN, Call, Kinds, every_node, shape
from netfuse_onnx.types import Dim, ValueType

DOMAIN = "netfuse"
REDUCERS = (
    *(f"Reduce{name}" for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2")),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)
COMPUTED = {*REDUCERS, "Squeeze"}
"""Operators whose second input may be axes that are computed."""
TABLES = "ai.onnx.ml"
ROWS = ("Scaler", "Normalizer", "Imputer", "LinearRegressor", "SVMRegressor", "FeatureVectorizer",
        "LinearClassifier", "SVMClassifier")  # fmt: skip
"""Operators on tables of which onnx tells nothing, or miscounts the classes."""


def corrected(model: ModelProto) -> None:
    """Change the nodes of a skeleton, those of bodies included, whose axes are computed: a run would tell the
    rank for those that happen to be drawn, twice the same one, say. And Einsum, of which onnx tells the rank
    alone, and operators on tables."""
    stored = {"", *(tensor.name for tensor in model.graph.initializer)}
    for node in every_node(model.graph):
        computed = node.op_type in COMPUTED and len(node.input) > 1 and node.input[1] not in stored
        if (computed or _letters(node)) and not node.domain:
            node.domain = DOMAIN
        if node.domain == TABLES and node.op_type in ROWS:
            node.domain = DOMAIN
    model.opset_import.add(domain=DOMAIN, version=1)


@shape(*(f"{DOMAIN}.{op}" for op in REDUCERS))
def _reduced(call: Call) -> Kinds:
    return [_open(call, len(call.dims(0)))] if call.attr("keepdims", 1) else _squeezed(call)


@shape(f"{DOMAIN}.Squeeze")
def _squeezed(call: Call) -> Kinds:
    (count,) = call.dims(1, 1)
    if not isinstance(count, int) or not count:  # without axes it may be none of them or all
        return [UNKNOWN]
    return [_open(call, len(call.dims(0)) - count)]


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
