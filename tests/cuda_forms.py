"""The forms of operators whose values are wrong on CUDA, silently (run/gaps.py): no merged graph may have one.

There is a GPU in few places. So the oracle looks for these forms in every graph that it merges, by the shapes
that onnx infers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx

from netfuse_onnx.dims import INFERRED

Shape = list[int | str | None]
PRODUCTS = ("MatMul", "MatMulInteger", "FusedMatMul", "MatMulIntegerToFloat")


def unfit(merged: onnx.ModelProto, source: onnx.ModelProto | None) -> list[str]:
    """A line for each node of the merged graph that has a form. `source`: nodes of the source are taken over
    as they are, so that a form which one of them has is left out."""
    found = [*_found(merged)]
    own = {kind for kind, _ in _found(source)} if found and source else set()
    return [line for kind, line in found if kind not in own]


def _found(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """The kinds of forms in a graph, and a line that tells the node."""
    if FORMS.keys().isdisjoint(node.op_type for node in model.graph.node):
        return
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):
        graph = model.graph
    shapes = {info.name: _shape(info) for info in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if (form := FORMS.get(node.op_type)) is None:
            continue
        given = [shapes.get(name) for name in node.input]
        if form(node, given):
            yield node.op_type, f"{node.op_type} {node.name}: {given}"


def _shape(info: onnx.ValueInfoProto) -> Shape | None:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else _symbol(d.dim_param) for d in kind.shape.dim]


def _symbol(name: str) -> str | None:
    """A dim's name; none for one that inference made up, which says nothing of another one."""
    return None if name.startswith(INFERRED) else name or None


def both_broadcast(node: onnx.NodeProto, given: Sequence[Shape | None]) -> bool:
    """gaps.BOTH_BROADCAST: each side is 1 where the other is not."""
    left, right = given[:2]
    if left is None or right is None:
        return False
    batches = max(len(left), len(right)) - 2
    one, two = ([1] * (batches + 2 - len(side)) + side[:-2] for side in (left, right))
    pairs = list(zip(one, two, strict=True)) if min(len(left), len(right)) > 1 else []
    return any(a == 1 != b for a, b in pairs) and any(b == 1 != a for a, b in pairs)


def unequal(node: onnx.NodeProto, given: Sequence[Shape | None]) -> bool:
    """gaps.BROADCAST_OF_SEVERAL: three or more inputs, of which two shapes are known to differ."""
    known = [shape for shape in given if shape is not None]
    return len(given) > 2 and any(shape != known[0] for shape in known)


def scaled_outside(node: onnx.NodeProto, given: Sequence[Shape | None]) -> bool:
    """gaps.SCALE_PER_MODEL: the scale or bias depends on axes before those that are normalised."""
    x, *affine = given
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    if x is None or len(x) == 3:
        return False
    inner = len(x) - axis if axis >= 0 else -axis
    return any(size != 1 for shape in affine if shape for size in shape[:-inner])


FORMS: dict[str, Callable[[onnx.NodeProto, Sequence[Shape | None]], bool]] = {
    **dict.fromkeys(PRODUCTS, both_broadcast),
    **dict.fromkeys(("Sum", "Max", "Min"), unequal),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), scaled_outside),
}
"""By operator: true for a node that is wrong on CUDA, as far as shapes are known."""
