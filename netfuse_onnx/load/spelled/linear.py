"""Forms of products with a matrix: Gemm, MatMul and Add, reshaped to rank 2 or not. The spelling is MatMul
of x [.., K] with weights [K, O], then Add."""

from __future__ import annotations

from dataclasses import replace

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.types import Node

TURNED = [1, 0]


@form("Gemm", name="gemm", exact=False, says="Gemm became MatMul and Add")
def _gemm(forms: Forms, node: Node) -> list[Node] | None:
    """A B + C, each of rank 2 or turned, is a MatMul and an Add."""
    (a, b, *rest), attrs = node.inputs, node.attrs
    addend = rest[0] if rest else ""
    beta = attrs.get("beta", 1.0) if addend else 1.0
    if attrs.get("alpha", 1.0) != 1.0 or beta != 1.0 or forms.dtype(node.outputs[0]) not in FLOATS:
        return None
    made: list[Node] = []
    if attrs.get("transA", 0):
        a = _turned(forms, a, made)
    if attrs.get("transB", 0):
        b = _turned(forms, b, made)
    product = forms.fresh(node.outputs[0]) if addend else node.outputs[0]
    made.append(Node("MatMul", "", node.name, (a, b), (product,), {}))
    if addend:
        made.append(Node("Add", "", f"{node.name}/bias", (product, addend), node.outputs, {}))
    return made


def _turned(forms: Forms, name: str, made: list[Node]) -> str:
    """Return the transpose of a matrix: a computed weight, or the result of a Transpose that is made."""
    weight = forms.weights.get(name)
    turned = forms.transposed(name, TURNED) if weight is not None else None
    if turned is not None:
        return turned
    result = forms.fresh(name)
    made.append(Node("Transpose", "", "", (name,), (result,), {"perm": TURNED}))
    return result


@form("Reshape", name="reshaped-product", exact=False, needs=["MatMul", "Gemm"],
      says="A product with a matrix that was made of rank 2 and back kept its rank")  # fmt: skip
def _reshaped_product(forms: Forms, node: Node) -> list[Node] | None:
    """Reshape to [-1, K], MatMul with weights [K, O], Add [O], Reshape to [.., O] is without the Reshapes."""
    x, bias = node.inputs[0], ""
    if (add := forms.only(x, "Add")) is not None and (found := forms.operand_by(add, "MatMul")):
        x, bias = found[0].outputs[0], found[1]
    product = forms.only(x, "MatMul")
    flat = forms.producer(product.inputs[0], "Reshape") if product else None
    weight = forms.weights.get(product.inputs[1]) if product else None
    if product is None or flat is None or weight is None or len(weight.shape) != 2:
        return None
    if bias and (bias not in forms.weights or forms.weights[bias].shape not in ((weight.shape[1],), ())):
        return None
    before, rows, after = (forms.dims(name) for name in (flat.inputs[0], flat.outputs[0], node.outputs[0]))
    if before is None or rows is None or after is None or len(rows) != 2 or len(before) != len(after):
        return None
    if (before[-1], after[-1]) != weight.shape or not all(
        isinstance(d, int) for d in (before[-1], after[-1])
    ):
        return None
    differing = [pair for pair in zip(before[:-1], after[:-1], strict=True) if not _equal(*pair)]
    if (
        len(differing) > 1
        or 0 in {*before, *after}
        or (differing and all(isinstance(d, int) for d in differing[0]))
    ):
        return None  # of one dim that is not known, the number of elements tells that it is equal
    result = forms.fresh(node.outputs[0]) if bias else node.outputs[0]
    made = [replace(product, inputs=(flat.inputs[0], product.inputs[1]), outputs=(result,))]
    if bias and add is not None:
        made.append(replace(add, inputs=(result, bias), outputs=node.outputs))
    return made


def _equal(one: object, other: object) -> bool:
    return isinstance(one, int) and one == other
