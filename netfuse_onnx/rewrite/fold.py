"""Constants that all models share are computed once, at merge time.

Exporters and expanded functions compute axes, shapes and pads with nodes (Range, Concat, Shape of something
static). A rule can only move the model axis past an axis that it knows, so these are folded before the
plan. Integers and booleans only: of a float, another runtime may round the last bit otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from netfuse_onnx.load.infer import infer
from netfuse_onnx.ops import traits
from netfuse_onnx.ops.kinds import SHAPE_TYPES
from netfuse_onnx.storage.weights import array
from netfuse_onnx.types import Correspondence, Node, ValueType, Weight

LIMIT = 128
"""Most elements of a folded constant: shapes and axes, not tables."""

WINDOWED = ("Conv", "ConvInteger", "Pool", "ConvTranspose", "DeformConv")
"""Ends of the names of operators that pad inside: a huge one may give a small output. Never computed."""

Values = NDArray[Any]


def fold(corr: Correspondence) -> Correspondence:
    """The correspondence without the nodes whose outputs are known, and with types inferred again."""
    folded = corr
    while (smaller := _pass(folded)) is not folded:
        folded = smaller
    return folded


def _pass(corr: Correspondence) -> Correspondence:
    known: dict[str, Values] = {}
    left: list[Node] = []
    kept = set(corr.graph.outputs) | corr.ragged
    for index, node in enumerate(corr.graph.nodes):
        values = None if index in corr.attrs or kept & set(node.outputs) else _value(corr, known, node)
        if values is None:
            left.append(node)
        else:
            known |= zip(node.outputs, values, strict=True)
    if not known:
        return corr
    constants = {name: _weight(value) for name, value in known.items()}
    moved = _renumbered(corr, left)
    graph = replace(corr.graph, nodes=tuple(left), weights={**corr.graph.weights, **constants})
    typed = infer(replace(corr.sources[0], graph=graph)).graph.types
    types = {
        name: _better(typed.get(name), corr.graph.types.get(name)) for name in {**typed, **corr.graph.types}
    }
    weights = {**corr.weights, **{name: (constant,) for name, constant in constants.items()}}
    return replace(corr, graph=replace(graph, types=types), weights=weights, attrs=moved)


def _better(new: ValueType | None, old: ValueType | None) -> ValueType:
    """The type that says more; inference on a folded graph knows at least as much."""
    if new is None or (new.dims is None and new.proto is None):
        return old or new or ValueType()
    return new


def _renumbered(corr: Correspondence, left: list[Node]) -> dict[int, tuple[Mapping[str, Any], ...]]:
    """`attrs` by the index that each node has among those that are left."""
    position = {id(node): i for i, node in enumerate(left)}
    return {position[id(corr.graph.nodes[i])]: attrs for i, attrs in corr.attrs.items()}


def _value(corr: Correspondence, known: Mapping[str, Values], node: Node) -> list[Values] | None:
    """The outputs of a node whose inputs are known, or whose input's shape is; else None."""
    if node.domain or traits.random(node) or traits.has_bodies(node) or "" in node.outputs:
        return None
    types = [corr.graph.types.get(name, ValueType()) for name in node.outputs]
    if not all(kind.dtype in SHAPE_TYPES for kind in types):
        return None
    if node.op == "Shape":
        return _shape(corr, node)
    if not _small(node, types):
        return None
    ins = [_known(corr, known, name) if name else None for name in node.inputs]
    if any(value is None and name for value, name in zip(ins, node.inputs, strict=True)):
        return None
    try:
        outs = _evaluate(corr, node, ins)
    except Exception:  # what the reference can't compute stays a node; the runtime has the last word
        return None
    return outs if all(out.size <= LIMIT for out in outs) else None


def _small(node: Node, types: list[ValueType]) -> bool:
    """True where the outputs are at most as large as a folded constant may be: nothing larger is computed."""
    if node.op.endswith(WINDOWED):
        return False
    for kind in types:
        dims = kind.dims
        sizes = [dim for dim in dims or () if isinstance(dim, int)]
        if dims is not None and len(sizes) == len(dims):
            if math.prod(sizes) > LIMIT:
                return False
        elif traits.of(node.op).grows:  # computed only where inference tells a small size
            return False
    return True


def _shape(corr: Correspondence, node: Node) -> list[Values] | None:
    parts = corr.weights.get(node.inputs[0])
    dims = parts[0].shape if parts else corr.graph.types.get(node.inputs[0], ValueType()).dims
    if dims is None or node.inputs[0] in corr.ragged:
        return None
    wanted = dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    sizes = [dim for dim in wanted if isinstance(dim, int)]
    return [np.array(sizes, np.int64)] if len(sizes) == len(wanted) else None


def _known(corr: Correspondence, known: Mapping[str, Values], name: str) -> Values | None:
    if name in known:
        return known[name]
    parts = corr.weights.get(name, ())
    small = len(parts) == 1 and isinstance(parts[0].data, bytes)
    return array(parts[0]) if small else None


def _evaluate(corr: Correspondence, node: Node, ins: list[Values | None]) -> list[Values]:
    from onnx.reference import ReferenceEvaluator  # slow to import, and most merges fold nothing

    names = [f"i{k}" if value is not None else "" for k, value in enumerate(ins)]
    outs = [f"o{k}" for k in range(len(node.outputs))]
    proto = onnx.helper.make_node(node.op, names, outs, **node.attrs)
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [onnx.ValueInfoProto(name=n) for n in names if n],
        [onnx.ValueInfoProto(name=n) for n in outs],
    )
    opset = onnx.helper.make_opsetid("", corr.opsets.get("", 1))
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    feeds = {name: value for name, value in zip(names, ins, strict=True) if name}
    with np.errstate(all="ignore"):
        return [np.asarray(out) for out in ReferenceEvaluator(model).run(None, feeds)]


def _weight(value: Values) -> Weight:
    proto = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))
    return Weight(proto.data_type, tuple(proto.dims), proto.raw_data)
