"""Products of bytes whose sums only become floats: MatMulInteger, Cast, Mul as one operator, for CUDA.

Dynamic quantisation writes float(sum (x - p)(w - q)) * (a * b). Where nothing else reads the sums they need
not be whole numbers: the rules of MatMulIntegerToFloat make them in one product of floats, without pieces and
without int32 in between. On the CPU, ONNX Runtime fuses the same nodes by itself when it loads a model.
"""

from __future__ import annotations

from onnx import TensorProto

from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.rewrite.nodes import with_nodes
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Correspondence, Node

UINT8, INT8, FLOAT = TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT
TAKEN = {(UINT8, UINT8), (UINT8, INT8), (INT8, INT8)}
"""The element types of both operands for which ONNX Runtime has a kernel."""


def fuse_dynamic(corr: Correspondence) -> Correspondence:
    """The correspondence with the products fused whose sums one Cast reads, and that one Mul."""
    view, fresh, dropped = View(corr), dict[int, Node](), set[int]()
    for i, node in enumerate(view.nodes):
        cast = view.only_reader(node.outputs[0], "Cast") if node.key == "MatMulInteger" else None
        scaled = view.only_reader(cast.outputs[0], "Mul") if cast is not None else None
        if cast is None or scaled is None or i in corr.attrs or cast.attrs.get("to") != FLOAT:
            continue
        fused = _fused(view, node, cast, scaled)
        if fused is not None:
            place = view.producers[scaled.outputs[0]]
            fresh[place] = fused
            dropped |= {i, view.producers[cast.outputs[0]], place}
    return with_nodes(corr, fresh, dropped, view.weights) if fresh else corr


def _fused(view: View, node: Node, cast: Node, scaled: Node) -> Node | None:
    a, b, *zeros = node.inputs
    (scale,) = (name for name in scaled.inputs if name != cast.outputs[0])
    product = view.producer(scale)
    if product is None or product.key != "Mul" or (view.type(a).dtype, view.type(b).dtype) not in TAKEN:
        return None
    a_zero, b_zero = (*zeros, "", "")[:2]
    numbers = sorted(product.inputs, key=lambda name: not _is_number(view, name))  # that of `a` is one number
    if not _is_number(view, numbers[0]) or (a_zero and not _is_number(view, a_zero)):
        return None
    if not _fits_columns(view, numbers[1], b) or (b_zero and not _fits_columns(view, b_zero, b)):
        return None
    if (
        any(view.type(name).dtype != FLOAT for name in numbers)
        or min(view.rank(a) or 0, view.rank(b) or 0) < 2
    ):
        return None
    inputs = [a, b, *numbers, a_zero, b_zero]
    while not inputs[-1]:
        inputs.pop()
    return Node("MatMulIntegerToFloat", MICROSOFT, node.name, tuple(inputs), scaled.outputs, {})


def _is_number(view: View, name: str) -> bool:
    return view.dims(name) in ((), (1,))


def _fits_columns(view: View, name: str, b: str) -> bool:
    """True for one number, or one for each column of a matrix."""
    dims, matrix = view.dims(name), view.dims(b)
    columns = matrix is not None and len(matrix) == 2 and isinstance(matrix[1], int) and dims == (matrix[1],)
    return _is_number(view, name) or columns
